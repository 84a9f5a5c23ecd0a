"""The state-feedback rule: a band from forecasts, the fleet's state and the observed lead time.

It has sixteen parameters (called its *numbers*), found by direct policy search in the simulator
(`shared.learning.lobby.search`). The first five alone are a plain rule with a fixed forecast
horizon; with the others the rule adapts to the lead time that it observes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray, IntArray
from shared.core.forecasts import Forecasts, logit
from shared.core.lead_evidence import PRIOR_STEPS, LeadEvidence, no_evidence, seen
from shared.core.lead_process import USUAL_LEAD
from shared.core.lobby import Band, Ended, Met


@dataclass(frozen=True, slots=True)
class Number:
    """One parameter of the rule: its bounds, and the initial mean and spread of a search."""

    name: str
    low: float
    high: float
    start: float
    spread: float


NUMBERS = (
    # The plain rule.
    Number("level", -1.0, 5.0, 2.0, 0.8),  # quantile level of the forecast, in log odds
    Number("horizon", 1.0, 25.0, 8.0, 3.0),  # steps
    Number("buffer", -1.0, 3.0, 0.3, 0.4),  # local units above the forecast
    Number("waiting", 0.0, 2.5, 0.8, 0.4),  # servers per waiting match
    Number("keep_steps", 0.0, 30.0, 4.0, 5.0),  # of decay of the keep level to what is needed
    # Adaptation to the observed lead time, and the keep level.
    Number("horizon_per_lead", 0.0, 1.8, 0.5, 0.3),  # steps per step of lead
    Number("level_by_lead", -2.0, 2.0, 0.0, 0.4),  # log odds per log(lead / prior)
    Number("buffer_by_lead", -1.5, 1.5, 0.0, 0.3),  # local units per log(lead / prior)
    Number("keep_level", -1.0, 3.0, 0.0, 0.5),  # log odds above the raise level's
    Number("keep_horizon", 0.2, 1.5, 0.9, 0.2),  # times the raise level's horizon
    Number("fast", 0.0, 1.0, 0.5, 0.3),  # weight of the fast average; the rest: the slow one
    Number("newest", 0.0, 1.0, 0.3, 0.3),  # weight of the starts that ended last
    Number("oldest", 0.0, 1.5, 0.8, 0.4),  # lead is at least so many times the oldest start's age
    Number("level_by_misses", -3.0, 6.0, 0.0, 1.0),  # log odds per excess frequency of misses
    Number("keep_buffer", 0.0, 3.0, 0.0, 0.4),  # local units above the raise level's buffer
    Number("keep_level_by_lead", -1.0, 1.0, 0.0, 0.3),  # log odds per log(lead / prior)
)
NAMES = tuple(number.name for number in NUMBERS)
PLAIN = 5
"""How many of `NUMBERS`, from the first on, are those of the plain rule."""


def numbers_of(**named: float) -> FloatArray:
    """Parameters given by name, shape ``(16,)``; the others are 0, ``keep_horizon`` is 1."""
    return np.array([named.get(name, 1.0 if name == "keep_horizon" else 0.0) for name in NAMES])


QUANTILE = numbers_of(level=float(logit(5 / 6)), horizon=6.0)
"""Both levels are one quantile of the demand six steps ahead: the best policy in the notebook's
dynamics."""


def named(numbers: FloatArray) -> dict[str, float]:
    """Parameters ``(16,)`` by name."""
    return dict(zip(NAMES, numbers.tolist(), strict=True))


class Memory(NamedTuple):
    """Memory of the rule between steps, shape ``(lanes,)``."""

    kept: FloatArray
    """Keep level of the step before, in servers."""
    lead: LeadEvidence


class BandRule:
    """The rule, with separate parameters for each lane."""

    def __init__(
        self, numbers: FloatArray, forecasts: Forecasts, usual_lead: float = USUAL_LEAD
    ) -> None:
        """`numbers`: ``(lanes, 16)``, in the order of `NUMBERS`; `usual_lead`: prior, in steps."""
        columns = dict(zip(NAMES, np.ascontiguousarray(numbers.T), strict=True))
        self._numbers = columns
        self._forecasts = forecasts
        self._lanes = len(numbers)
        self._usual_lead = usual_lead

    def begin(self) -> Memory:
        """Memory before the first step."""
        return Memory(np.zeros(self._lanes), no_evidence(self._lanes, self._usual_lead))

    def decide(self, before: Memory, met: Met, ended: Ended, rows: IntArray) -> tuple[Memory, Band]:
        """Returns (memory, band) after a step; `rows` ``(lanes,)`` index the forecasts to use."""
        n, forecasts, state = self._numbers, self._forecasts, met.state
        lead = seen(before.lead, ended, met.start_steps, state.starting)
        steps = self._lead_steps(lead)
        by_lead = np.log(np.maximum(steps, 1.0) / PRIOR_STEPS)
        unit, waiting = forecasts.units[rows], n["waiting"] * state.waiting
        horizon = n["horizon"] + n["horizon_per_lead"] * steps
        level = (
            n["level"]
            + n["level_by_lead"] * by_lead
            + n["level_by_misses"] * forecasts.misses[rows]
        )
        buffer = n["buffer"] + n["buffer_by_lead"] * by_lead
        wanted = forecasts.at(rows, horizon, level) + buffer * unit + waiting
        nearer = np.maximum(n["keep_horizon"] * horizon, 1.0)
        keep_level = level + n["keep_level"] + n["keep_level_by_lead"] * by_lead
        needed = (
            forecasts.at(rows, nearer, keep_level) + (buffer + n["keep_buffer"]) * unit + waiting
        )
        falling = before.kept + (needed - before.kept) / (1.0 + n["keep_steps"])
        kept = np.maximum(needed, falling)
        return Memory(kept, lead), Band(wanted, kept)

    def _lead_steps(self, lead: LeadEvidence) -> FloatArray:
        """The lead time to plan for, in steps, from the evidence; ``(lanes,)``."""
        n = self._numbers
        average = lead.slow + n["fast"] * (lead.fast - lead.slow)
        mixed = average + n["newest"] * (lead.newest - average)
        planned: FloatArray = np.maximum(mixed, n["oldest"] * lead.oldest)
        return planned


class TargetRule:
    """An autoscaler's rule: both levels are one target, which depends on demand alone."""

    def __init__(
        self, targets: FloatArray, times: FloatArray | float = 1.0, added: FloatArray | float = 0.0
    ) -> None:
        """The target of a lane is ``targets[row] * times + added``.

        `targets`: servers after each row, ``(rows,)``; `times` and `added`: for all lanes, or
        ``(lanes,)``.
        """
        self._targets = targets
        self._times = times
        self._added = added

    def begin(self) -> None:
        """It has no memory."""

    def decide(self, before: None, met: Met, ended: Ended, rows: IntArray) -> tuple[None, Band]:  # noqa: ARG002
        """The target as both levels."""
        target = self._targets[rows] * self._times + self._added
        return None, Band(target, target)
