"""Recorded demand over time."""

from dataclasses import dataclass

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters


@dataclass(frozen=True, slots=True)
class History:
    """Recorded demand, oldest first, one row per step; shape ``(rows,)`` each."""

    times: FloatArray
    """Seconds since 1970, ascending."""
    demands: FloatArray
    """Servers."""
    step_seconds: float
    """Nominal time from row to row."""


def within_limits(history: History, parameters: FleetParameters) -> History:
    """The history as a fleet's environment sees it."""
    demands = parameters.within_limits(history.demands)
    return History(history.times, demands, history.step_seconds)


def part(history: History, start: int, stop: int) -> History:
    """Rows `start` to `stop` (exclusive) of a history."""
    return History(history.times[start:stop], history.demands[start:stop], history.step_seconds)
