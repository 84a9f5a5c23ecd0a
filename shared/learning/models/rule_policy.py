"""Rules as policies: a rule that beats the trained policy can become champion too.

A rule is exported to the same SavedModel and LiteRT files as a trained policy, over the same
observation, so a service runs it like any other policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters
from shared.core.tuning import (
    BUFFER,
    CONSTANT,
    FACTOR,
    SEASONAL,
    TREND_BUFFER,
    Rule,
    TunedRule,
    grid,
)

SERVABLE_RULES = (
    CONSTANT,
    BUFFER,
    FACTOR,
    replace(
        TREND_BUFFER,
        settings=grid(window=(2, 3, 5), damping=(0.25, 0.5, 0.75, 1.0), spreads=(0.0,)),
    ),
    SEASONAL,
)
"""The rules whose inputs an observation has, with the settings for which it has them."""


def name_of(rule: Rule) -> str:
    """The name of a policy that is this rule, such as `rule:buffer`."""
    return f"rule:{rule.name}"


@dataclass(frozen=True, slots=True)
class TunedRulePolicy:
    """A tuned rule over the fields of an observation, in servers."""

    factor: float
    """Factor of the last demand."""
    added: float
    """Servers added to that."""
    slopes: Mapping[str, float]
    """Weights of demand fields' differences from the last demand."""
    shifts: tuple[tuple[str, str], ...]
    """``(after, before)`` fields of the change a season ago; the first known pair is used."""
    shift_weight: float
    parameters: FleetParameters

    @classmethod
    def of(cls, tuned: TunedRule, parameters: FleetParameters) -> "TunedRulePolicy | None":
        """A tuned rule as a policy; None where the observation lacks one of its fields."""
        setting = tuned.setting
        times = tuned.rule.margin == "times"
        lead = parameters.lead_steps
        slopes: dict[str, float] = {}
        shifts: list[tuple[str, str]] = []
        if window := setting.get("window"):
            centred = np.arange(window) - (window - 1) / 2
            weights = setting["damping"] * lead * centred / (centred @ centred)
            slopes = {f"demand[-{window - at}]": float(w) for at, w in enumerate(weights)}
        if period := setting.get("period"):
            periods = ("week_ago", "day_ago") if period == "week" else ("day_ago",)
            shifts = [(f"{when}[+{lead}]", f"{when}[+0]") for when in periods]
        rule = cls(
            factor=0.0 if tuned.rule.name == "constant" else tuned.margin if times else 1.0,
            added=0.0 if times else tuned.margin,
            slopes=slopes,
            shifts=tuple(shifts),
            shift_weight=setting.get("weight", 0.0),
            parameters=parameters,
        )
        named = {*slopes, *(field for pair in shifts for field in pair)}
        return rule if named <= set(parameters.observation_fields) else None

    reads_targets = False

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions ``(rows, 1)`` for observations ``(rows, fields)``, NaN where unknown."""
        at = self.positions
        last = observations[:, at["demand[-1]"]]
        target = self.factor * last + self.added
        for field, weight in self.slopes.items():
            target = target + weight * np.nan_to_num(observations[:, at[field]] - last)
        shift = np.zeros_like(last)
        for after, before in reversed(self.shifts):
            change = observations[:, at[after]] - observations[:, at[before]]
            shift = np.where(np.isnan(change), shift, change)
        action = (target + self.shift_weight * shift) / self.parameters.action_factor
        clipped: FloatArray = np.clip(action, 0.0, self.parameters.highest_action)[:, np.newaxis]
        return clipped

    @property
    def experts(self) -> dict[str, float]:
        """Empty: the rule is a single expert."""
        return {}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's fields."""
        return self.parameters.observation_fields

    @property
    def lead_steps(self) -> int:
        """Steps from the newest demand to the one that it plans for."""
        return self.parameters.lead_steps

    @property
    def positions(self) -> dict[str, int]:
        """Position of each field in an observation."""
        return {field: at for at, field in enumerate(self.fields)}
