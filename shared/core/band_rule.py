"""The state-feedback rule: a band from forecasts, the state of the fleet and the lead time seen.

Sixteen numbers, found by search in the simulator (`shared.learning.lobby.search`). The first five
alone are a plain rule with a fixed horizon; the others shift it with the lead time that is seen.
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
    """One number of the rule: its bounds, where a search begins, and how far it looks at first."""

    name: str
    low: float
    high: float
    start: float
    spread: float


NUMBERS = (
    # The plain rule.
    Number("level", -1.0, 5.0, 2.0, 0.8),  # of the forecast, in log odds
    Number("horizon", 1.0, 25.0, 8.0, 3.0),  # steps
    Number("buffer", -1.0, 3.0, 0.3, 0.4),  # local units
    Number("waiting", 0.0, 2.5, 0.8, 0.4),  # servers for each waiting match
    Number("keep_steps", 0.0, 30.0, 4.0, 5.0),  # in which the keep level falls to what is needed
    # How it follows the lead time that is seen.
    Number("horizon_per_lead", 0.0, 1.8, 0.5, 0.3),  # steps a step of lead
    Number("level_by_lead", -2.0, 2.0, 0.0, 0.4),  # log odds, by the log of lead over prior
    Number("buffer_by_lead", -1.5, 1.5, 0.0, 0.3),  # local units, by the same
    Number("keep_level", -1.0, 3.0, 0.0, 0.5),  # log odds above the raise level's
    Number("keep_horizon", 0.2, 1.5, 0.9, 0.2),  # of the raise level's
    Number("fast", 0.0, 1.0, 0.5, 0.3),  # part of the fast average, beside the slow one
    Number("newest", 0.0, 1.0, 0.3, 0.3),  # part of the starts that ended last, beside both
    Number("oldest", 0.0, 1.5, 0.8, 0.4),  # times the oldest start's age: the lead is at least that
    Number("level_by_misses", -3.0, 6.0, 0.0, 1.0),  # log odds, by how oft forecasts were exceeded
    Number("keep_buffer", 0.0, 3.0, 0.0, 0.4),  # local units above the raise level's buffer
    Number("keep_level_by_lead", -1.0, 1.0, 0.0, 0.3),
)
NAMES = tuple(number.name for number in NUMBERS)
PLAIN = 5
"""The plain rule's numbers, the first."""


def numbers_of(**named: float) -> FloatArray:
    """The rule's numbers by name, shape ``(16,)``; 0 where not named, ``keep_horizon`` 1."""
    return np.array([named.get(name, 1.0 if name == "keep_horizon" else 0.0) for name in NAMES])


QUANTILE = numbers_of(level=float(logit(5 / 6)), horizon=6.0)
"""Raise and lower to one quantile of the demand six steps ahead: the notebook's best."""


class Memory(NamedTuple):
    """What the rule remembers from step to step, shape ``(lanes,)``."""

    kept: FloatArray
    """The keep level before, in servers."""
    lead: LeadEvidence


class BandRule:
    """The rule with numbers of its own for each lane."""

    def __init__(
        self, numbers: FloatArray, forecasts: Forecasts, usual_lead: float = USUAL_LEAD
    ) -> None:
        """`numbers`: ``(lanes, 16)``, in the order of `NUMBERS`; `usual_lead`: steps, a prior."""
        columns = dict(zip(NAMES, np.ascontiguousarray(numbers.T), strict=True))
        self._numbers = columns
        self._forecasts = forecasts
        self._lanes = len(numbers)
        self._usual_lead = usual_lead

    def begin(self) -> Memory:
        """Before the first step."""
        return Memory(np.zeros(self._lanes), no_evidence(self._lanes, self._usual_lead))

    def decide(self, before: Memory, met: Met, ended: Ended, rows: IntArray) -> tuple[Memory, Band]:
        """The band after a step; `rows` are those of the forecasts that were made then."""
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
        """The lead time that is planned with."""
        n = self._numbers
        average = lead.slow + n["fast"] * (lead.fast - lead.slow)
        mixed = average + n["newest"] * (lead.newest - average)
        planned: FloatArray = np.maximum(mixed, n["oldest"] * lead.oldest)
        return planned


class TargetRule:
    """Raise and lower to a number that depends on demand alone: an autoscaler's rule."""

    def __init__(
        self, targets: FloatArray, times: FloatArray | float = 1.0, added: FloatArray | float = 0.0
    ) -> None:
        """`targets`: servers after each row, ``(rows,)``; times and plus a lane's own numbers."""
        self._targets = targets
        self._times = times
        self._added = added

    def begin(self) -> None:
        """It remembers nothing."""

    def decide(self, before: None, met: Met, ended: Ended, rows: IntArray) -> tuple[None, Band]:  # noqa: ARG002
        """The same number as both levels."""
        target = self._targets[rows] * self._times + self._added
        return None, Band(target, target)
