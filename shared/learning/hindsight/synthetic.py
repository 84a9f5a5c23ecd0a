"""Synthetic demand, which the pretrained policy is trained on.

Every series has a random mix of features of real demand: a daily curve that varies from day to day,
weekends, slow drift of the level, fluctuation within hours, noise, launches, outages, daily events,
or a period other than a day. None of it is taken from a recorded trace.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.observation import DAY_SECONDS, MONDAY_SECONDS, WEEK_SECONDS

STEP_SECONDS = (60.0, 65.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
DAYS = 22
"""Longest series: three weeks, so that demand of a week ago is known for most of it."""
ROWS = (4_000, 20_000)
"""Fewest and most rows, within `DAYS`."""
BEGIN = 1.6e9
"""Approximate start of a series, in seconds since 1970."""
LAST_WORKDAY, WEEKEND_END = 4.9, 6.9
"""Days after Monday, in UTC."""


def synthetic_history(rng: np.random.Generator) -> History:
    """Demand of one synthetic fleet, in servers, with a random step of `STEP_SECONDS`."""
    step_seconds = float(rng.choice(STEP_SECONDS))
    day = DAY_SECONDS / step_seconds
    rows = min(int(DAYS * day), int(rng.integers(*ROWS)))
    begin = BEGIN + float(rng.uniform(0, WEEK_SECONDS))
    times = begin + step_seconds * np.arange(rows, dtype=np.float64)
    season = _season(rng, times, day)
    level = _drift(rng, rows, day * rng.uniform(2, 15), rng.uniform(0, 0.4))
    within_hours = _drift(rng, rows, _log_uniform(rng, 5, 300), rng.uniform(0, 0.12))
    growth = rng.normal(0, 0.03) if rng.random() < 0.3 else 0.0
    together = season + level + within_hours + growth * np.arange(rows) / day
    by_ratio = rng.random() < 0.5
    demand = np.exp(together) if by_ratio else np.maximum(1 + 0.6 * together, 0.02)
    demand /= np.percentile(demand, 99)
    demand = _with_outages(rng, _with_launches(rng, demand))
    demand *= rng.choice((30.0, 90.0, 90.0, 300.0)) * rng.uniform(0.5, 1.2)
    return History(times, np.maximum(_with_noise(rng, demand), 0.0), step_seconds)


def _season(rng: np.random.Generator, times: FloatArray, day: float) -> FloatArray:
    """The seasonal part: mostly days and weekends, else another period, or none."""
    kind = rng.random()
    if kind < 0.8:
        return _days(rng, times, day)
    if kind < 0.9:
        phase = np.arange(len(times)) / _log_uniform(rng, 20, 2_000)
        wave: FloatArray = rng.uniform(0.2, 1) * np.cos(2 * np.pi * (phase + rng.random()))
        return wave
    return np.zeros(len(times))


def _days(rng: np.random.Generator, times: FloatArray, day: float) -> FloatArray:
    hours = (times % DAY_SECONDS) / 3600
    weekday = ((times - MONDAY_SECONDS) % WEEK_SECONDS) / DAY_SECONDS
    season = _daily(rng, hours)
    if rng.random() < 0.7:
        weekend = _step_up(weekday - LAST_WORKDAY) * _step_up(WEEKEND_END - weekday)
        other = _daily(rng, hours) if rng.random() < 0.4 else season
        season = season * (1 - weekend) + (other + rng.normal(0, 0.25)) * weekend
    season = season * (1 + _drift(rng, len(times), day * rng.uniform(0.7, 3), rng.uniform(0, 0.2)))
    if rng.random() < 0.3:
        since = (hours - rng.uniform(0, 24)) % 24
        event = np.exp(-since / rng.uniform(0.3, 3)) * np.clip(since / rng.uniform(0.05, 0.7), 0, 1)
        on = np.ones(len(times)) if rng.random() < 0.5 else np.floor(weekday) == rng.integers(7)
        season = season + rng.uniform(0.1, 0.8) * event * on
    return season


def _daily(rng: np.random.Generator, hours: FloatArray) -> FloatArray:
    """A daily curve of three harmonics."""
    strength = rng.uniform(0, 0.9) * np.array([1, 0.45 * rng.random(), 0.25 * rng.random()])
    phases = np.outer(hours / 24, (1, 2, 3)) - rng.random(3)
    curve: FloatArray = np.cos(2 * np.pi * phases) @ strength
    return curve


def _step_up(days: FloatArray) -> FloatArray:
    smooth: FloatArray = 1 / (1 + np.exp(-6 * days))
    return smooth


def _drift(rng: np.random.Generator, rows: int, memory: float, spread: float) -> FloatArray:
    """An Ornstein-Uhlenbeck process of time constant `memory` (rows) and deviation `spread`."""
    keep = math.exp(-1 / memory)
    changes = rng.normal(0, spread * math.sqrt(1 - keep * keep), rows)
    at = float(rng.normal(0, spread))
    drifting = np.empty(rows)
    for row, change in enumerate(changes.tolist()):
        at = keep * at + change
        drifting[row] = at
    return drifting


def _with_launches(rng: np.random.Generator, demand: FloatArray) -> FloatArray:
    """Add some fast or slow rises that decay again."""
    rows, median = np.arange(len(demand)), float(np.median(demand))
    for _ in range(rng.poisson(rng.choice((0, 1, 4)))):
        at = int(rng.integers(0, len(demand)))
        shape = launch(rows, at, _log_uniform(rng, 1, 60), _log_uniform(rng, 10, 1_500))
        demand = demand + rng.uniform(0.1, 1.5) * median * shape
    return demand


def launch(rows: NDArray[np.int64], at: int, rise_steps: float, fade_steps: float) -> FloatArray:
    """A rise from row `at`, over `rise_steps`, that decays over `fade_steps`; at most 1."""
    since = rows - at
    rise = np.clip(since / rise_steps, 0.0, 1.0)
    shape: FloatArray = rise * np.exp(-np.maximum(since, 0) / fade_steps)
    return shape


def _with_outages(rng: np.random.Generator, demand: FloatArray) -> FloatArray:
    """Some periods of up to 60 rows with at most half of the demand."""
    for _ in range(rng.poisson(rng.choice((0, 0, 1, 3)))):
        first = rng.integers(0, len(demand))
        demand[first : first + rng.integers(1, 60)] *= rng.uniform(0, 0.5)
    return demand


def _with_noise(rng: np.random.Generator, demand: FloatArray) -> FloatArray:
    """Multiplicative white noise, Poisson noise, or rounding to whole servers."""
    spread = rng.choice((0.0, rng.uniform(0, 0.04), rng.uniform(0, 0.25)))
    noisy: FloatArray = np.maximum(demand * (1 + spread * rng.normal(size=len(demand))), 0)
    if rng.random() < 0.4:
        noisy = rng.poisson(noisy).astype(np.float64)
    return np.round(noisy) if rng.random() < 0.3 else noisy


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))
