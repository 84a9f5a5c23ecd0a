"""Recorded demand: the series of a fleet's steps, for the live worker and for training.

Demand is exogenous (allocations do not change the behaviour of players), so a recorded series can
be replayed against any policy.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.core.arrays import IntArray
from shared.core.history import History, within_limits
from shared.core.parameters import FleetParameters
from shared.errors import BadInput
from shared.messages import RecordedStep


class TooLittleHistory(BadInput):
    """A fleet has not recorded enough usable demand to train on yet."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recorded demand, and where it has gaps.

    An observation may span a gap, as in the live worker; a decision and the demand that it meets
    may not.
    """

    history: History
    starts: IntArray
    """Rows that begin an unbroken run, ascending; the first is 0."""

    @classmethod
    def unbroken(cls, history: History) -> "Recorded":
        """Every row follows the one before, such as in a trace."""
        return cls(history, np.zeros(1, dtype=np.int64))

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First row and end of each unbroken run."""
        edges = [*self.starts.tolist(), len(self.history.demands)]
        return list(itertools.pairwise(edges))

    def until(self, row: int) -> "Recorded":
        """The rows before `row`."""
        history = self.history
        kept = History(history.times[:row], history.demands[:row], history.step_seconds)
        return Recorded(kept, self.starts[self.starts < row])


def recorded_of(steps: Sequence[RecordedStep], step_seconds: float) -> Recorded:
    """Usable demand, oldest first: a run breaks at held demand and at gaps.

    Where the clock was set back, what was recorded before it and has a later time is left out.
    """
    at = np.array([step.at for step in steps], dtype=np.float64)
    index = np.flatnonzero([step.usable for step in steps])
    earliest_after = np.minimum.accumulate(np.append(at[index][1:], np.inf)[::-1])[::-1]
    index = index[at[index] < earliest_after[: len(index)]]
    demands = np.array([steps[row].demand for row in index.tolist()], dtype=np.float64)
    after_gap = np.array([steps[row].gap_steps > 0 for row in index.tolist()], dtype=np.bool_)
    starts = np.flatnonzero(after_gap | (np.diff(index, prepend=-2) > 1))
    return Recorded(History(at[index], demands, step_seconds), starts)


def shortest_run(parameters: FleetParameters) -> int:
    """Rows that a run needs: a history, and a decision that meets its demand."""
    return parameters.history_len + parameters.lead_steps


def decision_rows(
    recorded: Recorded, parameters: FleetParameters, ahead: int | None = None
) -> IntArray:
    """Rows after which a decision has a history behind it and meets known demand, in one run.

    `ahead` are the steps to the furthest demand that it meets, the fleet's lead unless given.
    """
    before, lead = parameters.history_len - 1, ahead or parameters.lead_steps
    found = [np.arange(first + before, end - lead) for first, end in recorded.runs]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def replayable(recorded: Recorded, parameters: FleetParameters) -> Recorded:
    """The recorded demand, clipped to the fleet's limits.

    Raises `TooLittleHistory` when no run is long enough for a decision.
    """
    if not len(decision_rows(recorded, parameters)):
        longest = max((end - first for first, end in recorded.runs), default=0)
        raise TooLittleHistory(
            f"the longest unbroken run of recorded demand has {longest} steps and learning needs "
            f"{shortest_run(parameters)}: let the fleet run on, and see that its demand arrives "
            "at every step"
        )
    return Recorded(within_limits(recorded.history, parameters), recorded.starts)


def hold_out(
    recorded: Recorded, fraction: float, parameters: FleetParameters, least: int = 0
) -> tuple[Recorded, IntArray]:
    """Keep out the last `fraction` of the rows: ``(to train on, held-out decision rows)``.

    A held-out decision may look back at what is trained on; what it meets is held out. At least
    `least` decisions are held out, or nothing is; nor is anything if too little would be left.
    """
    rows = len(recorded.history.demands)
    held_out = int(fraction * rows)
    if least:
        held_out = max(held_out, least + parameters.lead_steps)
    cut = max(rows - held_out, 0)
    training = recorded.until(cut)
    decisions = decision_rows(recorded, parameters)
    decisions = decisions[decisions >= cut - 1]
    if len(decisions) < least or not len(decision_rows(training, parameters)):
        return recorded, np.empty(0, dtype=np.int64)
    return training, decisions
