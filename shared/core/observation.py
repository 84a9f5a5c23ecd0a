"""Observations: the fields of `shared.core.fields`, built from recorded demand and targets.

One encoder serves the live worker (the newest row), the backtest and the trainer's replay (every
row at once). A field that needs more history than there is is NaN; a policy's graph handles that.
"""

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from shared.core.arrays import FloatArray, IntArray
from shared.core.history import History
from shared.errors import UnknownField

DAY_SECONDS = 86_400.0
WEEK_SECONDS = 7 * DAY_SECONDS
MONDAY_SECONDS = 4 * DAY_SECONDS
"""1970 began on a Thursday; its first Monday was four days later."""
_PERIODS = {"day_ago": DAY_SECONDS, "week_ago": WEEK_SECONDS}
_TARGET = "target["
REACH_STEPS = 1.5
"""Largest distance in time, in steps, of the row that stands for a moment in the past."""


class Encoder:
    """Builds observations for any rows of a history."""

    def __init__(self, fields: Sequence[str], lead_steps: int) -> None:
        """`lead_steps`: from the newest demand to the one that a decision meets.

        Raises `UnknownField`.
        """
        of_targets = [field for field in fields if field.startswith(_TARGET)]
        self.fields = tuple(field for field in fields if field not in of_targets)
        """Those that are built from demand."""
        self._ages = [_target_age(field) for field in of_targets]
        together = (*self.fields, *of_targets)
        self._order = [together.index(field) for field in fields]
        self._in_order = self._order == list(range(len(together)))
        parsed = [_parsed(field) for field in self.fields]
        self._builders = [
            _builder(name, [number for _, number in numbered], lead_steps)
            for name, numbered in itertools.groupby(parsed, key=lambda one: one[0])
        ]
        self.reach_rows = max((_reach_rows(field) for field in self.fields), default=1)
        """Newest rows that the fields defined by rows need."""
        self.reach_seconds = max((_reach_seconds(field) for field in self.fields), default=0.0)
        """Seconds of history that the fields defined by time need."""

    def encode(self, history: History, rows: IntArray) -> FloatArray:
        """`self.fields` after each of `rows`, shape ``(len(rows), len(self.fields))``.

        NaN where history is too short. A row's fields depend on that row and those before it only.
        """
        columns = [build(history, rows) for build in self._builders]
        return np.concatenate(columns, axis=1) if columns else np.empty((len(rows), 0))

    def observations(self, encoded: FloatArray, targets: FloatArray) -> FloatArray:
        """Whole observations, from `encode`'s result and targets ``(rows, history_len)``.

        Targets are in servers, oldest first. Returns all fields in the order that was given to the
        constructor, shape ``(rows, fields)``.
        """
        there = targets[:, [targets.shape[1] - age for age in self._ages]]
        together = np.concatenate((encoded, there), axis=1)
        return together if self._in_order else together[:, self._order]


_Build = Callable[[History, IntArray], FloatArray]
_FIELD = re.compile(r"(?P<name>[a-z_]+)(?:\[(?P<number>[+-]?\d+)\])?")


def _parsed(field: str) -> tuple[str, int]:
    match = _FIELD.fullmatch(field)
    if match is None:
        raise UnknownField(field)
    name, number = match["name"], int(match["number"] or 0)
    known = {
        "demand": number < 0,
        "mean": number > 0,
        "change": number > 0,
        "day_ago": number >= 0,
        "week_ago": number >= 0,
        "time_of_day": match["number"] is None,
        "time_of_week": match["number"] is None,
        "target": number < 0,
    }
    if not known.get(name, False):
        raise UnknownField(field)
    return name, number


def _builder(name: str, numbers: Sequence[int], lead_steps: int) -> _Build:
    """The function that builds fields of one name together, ``(len(rows), len(numbers))``."""
    if name == "demand":
        ages = -np.array(numbers) - 1
        return lambda history, rows: _earlier(history.demands, rows, ages)
    if name in ("mean", "change"):
        windowed = _mean if name == "mean" else _root_mean_square_change
        return lambda history, rows: np.stack(
            [windowed(history.demands, rows, width) for width in numbers], axis=-1
        )
    if name in _PERIODS:
        steps = np.array(numbers)
        return lambda history, rows: _seasonal(history, rows, _PERIODS[name], steps)
    period, origin = (DAY_SECONDS, 0.0) if name == "time_of_day" else (WEEK_SECONDS, MONDAY_SECONDS)
    return lambda history, rows: _phase(history, rows, lead_steps, period, origin)


def _target_age(field: str) -> int:
    return -_parsed(field)[1]


def _reach_rows(field: str) -> int:
    name, number = _parsed(field)
    return {"demand": -number, "mean": number, "change": number + 1}.get(name, 1)


def _reach_seconds(field: str) -> float:
    return _PERIODS.get(_parsed(field)[0], 0.0)


def _earlier(demands: FloatArray, rows: IntArray, ages: IntArray) -> FloatArray:
    """Demand `ages` rows before each row, shape ``(len(rows), len(ages))``."""
    at = rows[:, np.newaxis] - ages
    return np.where(at >= 0, demands[np.maximum(at, 0)], np.nan)


def _mean(demands: FloatArray, rows: IntArray, width: int) -> FloatArray:
    mean: FloatArray = _earlier(demands, rows, np.arange(width)).sum(axis=-1) / width
    return mean


def _root_mean_square_change(demands: FloatArray, rows: IntArray, width: int) -> FloatArray:
    window = _earlier(demands, rows, np.arange(width + 1))
    changes = window[:, 1:] - window[:, :-1]
    root: FloatArray = np.sqrt((changes * changes).sum(axis=-1) / width)
    return root


def _seasonal(history: History, rows: IntArray, period: float, steps: IntArray) -> FloatArray:
    """Demand one period ago and `steps` later: the row nearest in time, within `REACH_STEPS`.

    NaN without such a row, and where that time is still to come. ``(len(rows), len(steps))``.
    """
    times = history.times
    ahead = steps * history.step_seconds
    wanted = times[rows][:, np.newaxis] - period + ahead
    newest = rows[:, np.newaxis]
    after = np.minimum(np.searchsorted(times, wanted), newest)
    before = np.maximum(after - 1, 0)
    nearer_after = np.abs(times[after] - wanted) < np.abs(times[before] - wanted)
    nearest = np.where(nearer_after, after, before)
    reached = np.abs(times[nearest] - wanted) <= REACH_STEPS * history.step_seconds
    return np.where(reached & (ahead < period), history.demands[nearest], np.nan)


def _phase(
    history: History, rows: IntArray, lead_steps: int, period: float, origin: float
) -> FloatArray:
    met = history.times[rows, np.newaxis] + lead_steps * history.step_seconds - origin
    phase: FloatArray = np.mod(met, period) / period
    return phase
