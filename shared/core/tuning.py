"""Tune the rules: the best parameters of each, on demand that it is not scored on.

A rule is a forecast with a setting, chosen from a grid, and a safety margin, which has a closed
form. The cost is the pinball loss, so the best number of servers to add is the critical fractile
of the forecast errors (Koenker and Bassett, 1978); the best factor is that quantile of demand over
forecast, weighted by the forecast.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from shared.core import rules
from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import score_after

Forecast = Callable[..., FloatArray]
Setting = Mapping[str, Any]
Margin = Literal["none", "added", "times"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A family of rules: its forecast, and the grid of its settings."""

    name: str
    forecast: Forecast
    """``forecast(history, parameters, **setting)``: servers after each row, ``(rows,)``."""
    margin: Margin = "none"
    settings: tuple[Setting, ...] = ({},)


@dataclass(frozen=True, slots=True)
class TunedRule:
    """A rule with its chosen parameters."""

    rule: Rule
    setting: Setting
    margin: float
    """Servers added, or the factor; 0 for a rule without a margin."""
    training_cost: float
    """Cost per step on the demand that it was tuned on."""

    def decisions(self, history: History, parameters: FleetParameters) -> FloatArray:
        """Requested targets after each row, in servers, not clipped; shape ``(rows,)``."""
        forecast = self.rule.forecast(history, parameters, **self.setting)
        return with_margin(forecast, self.rule.margin, self.margin)


def grid(**choices: Iterable[Any]) -> tuple[Setting, ...]:
    """Every combination of the choices, as settings of a rule."""
    names = tuple(choices)
    return tuple(dict(zip(names, values, strict=True)) for values in product(*choices.values()))


CONSTANT = Rule("constant", rules.nothing, "added")
BUFFER = Rule("buffer", rules.last_demand, "added")
FACTOR = Rule("factor", rules.last_demand, "times")
TREND_BUFFER = Rule(
    "trend_buffer",
    rules.damped_trend,
    "added",
    grid(window=(2, 3, 5, 8, 12), damping=(0.25, 0.5, 0.75, 1.0, 1.25), spreads=(0.0, 1.0, 2.0)),
)
SEASONAL = Rule(
    "seasonal",
    rules.seasonal,
    "added",
    grid(period=("day", "week"), weight=(0.25, 0.5, 0.75, 1.0)),
)
RULES = (
    CONSTANT,
    Rule("last_demand", rules.last_demand),
    BUFFER,
    FACTOR,
    TREND_BUFFER,
    Rule(
        "target_tracking",
        rules.target_tracking,
        "times",  # by 1 / target utilisation
        grid(cooldown=(0, 1, 3, 6, 12, 24)),
    ),
    SEASONAL,
)
"""The rules that are tuned, the simplest first."""
LIVE_RULE = Rule("live_rule", rules.live_rule)
"""The rule that the platform runs without a policy; its constants are fixed."""


def tune(rule: Rule, training: History, parameters: FleetParameters) -> TunedRule:
    """The rule with the parameters of the lowest cost on `training`; of equals, the first.

    The steps before the first decision takes effect are not scored, unless there are no others.
    """
    start = min(parameters.lead_steps, len(training.demands) - 1)

    def tuned(setting: Setting) -> TunedRule:
        forecast = rule.forecast(training, parameters, **setting)
        margin = fit_margin(forecast, training.demands, rule.margin, parameters)
        decisions = with_margin(forecast, rule.margin, margin)
        cost = score_after(decisions, training.demands, start, parameters).cost_per_step
        return TunedRule(rule, setting, margin, cost)

    return min(map(tuned, rule.settings), key=lambda candidate: candidate.training_cost)


def fit_margin(
    forecast: FloatArray, demands: FloatArray, margin: Margin, parameters: FleetParameters
) -> float:
    """The margin with the lowest cost, for forecasts made after each row of `demands`.

    In servers where it is added, a factor where it multiplies, 0 for a rule without one.
    """
    lead = parameters.lead_steps
    ahead, met = forecast[:-lead], demands[lead:]
    quantile = parameters.critical_fractile
    if margin == "added" and len(met):
        return float(np.quantile(met - ahead, quantile, method="inverted_cdf"))
    if margin == "times":
        some = ahead > 0
        if not some.any():
            return 1.0
        ratios, weights = met[some] / ahead[some], ahead[some]
        return float(np.quantile(ratios, quantile, weights=weights, method="inverted_cdf"))
    return 0.0


def with_margin(forecast: FloatArray, margin: Margin, value: float) -> FloatArray:
    """Requested targets in servers: the forecast with its margin, shape ``(rows,)``."""
    return forecast * value if margin == "times" else forecast + value
