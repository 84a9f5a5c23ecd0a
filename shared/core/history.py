"""Recorded demand over time."""

from dataclasses import dataclass

from shared.core.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class History:
    """Recorded demand, oldest first, one row per step; shape ``(rows,)`` each."""

    times: FloatArray
    """Seconds since 1970, ascending."""
    demands: FloatArray
    """Servers."""
    step_seconds: float
    """Nominal time from row to row."""


def part(history: History, start: int, stop: int) -> History:
    """Rows `start` to `stop` (exclusive) of a history."""
    return History(history.times[start:stop], history.demands[start:stop], history.step_seconds)
