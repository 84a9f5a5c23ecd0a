"""Forecasts of demand: quantiles at several horizons, interpolated, and calibrated as they are met.

Demand is exogenous, so what is forecast after each row of a series depends on the series alone:
all of it is there before a roll-out begins, and is the same for every contender.
"""

from dataclasses import dataclass

import numpy as np

from shared.core.arrays import FloatArray, IntArray

HORIZONS = (1, 2, 4, 6, 9, 13, 20, 30)
"""Steps ahead."""
LEVELS = (0.5, 0.7, 5 / 6, 0.9, 0.94, 0.97)
"""Probabilities that demand stays below."""
LEAD_STEPS = 6
"""Steps ahead that the local unit and the time fields of an observation are for."""
CALIBRATION_PACE = 0.005
"""How far a quantile moves after a miss, in local units (adaptive conformal inference)."""
LEAST_OFFSET, MOST_OFFSET = -1.0, 3.0
"""In local units."""
MISSES_PACE = 0.05
"""Weight of the newest outcome in how often demand has exceeded its forecast of late."""
UNIT_HORIZON = HORIZONS.index(9)
"""Whose spread the local unit is half of."""
UNIT_OF_DEMAND, LEAST_UNIT = 0.03, 0.3
"""Added to it: a part of the demand, and servers."""
_WATCHED = HORIZONS.index(6), LEVELS.index(0.9)
"""The forecast whose misses are counted."""


def logit(level: float | FloatArray) -> FloatArray:
    """Log odds of a probability: the scale on which levels are interpolated."""
    level = np.asarray(level, dtype=np.float64)
    odds: FloatArray = np.log(level / (1.0 - level))
    return odds


_LOGITS = logit(np.array(LEVELS))


@dataclass(frozen=True, slots=True)
class Forecasts:
    """What is forecast after each row of a series, in servers."""

    quantiles: FloatArray
    """``(rows, horizons, levels)``, ascending along levels."""
    units: FloatArray
    """The local unit, ``(rows,)``: how far demand may move from here in the time of a start."""
    misses: FloatArray
    """How much oftener than they should demand has exceeded its forecasts of late, ``(rows,)``."""

    @classmethod
    def of(cls, quantiles: FloatArray, demands: FloatArray) -> "Forecasts":
        """Of quantiles as a net gives them: calibrated row by row on the demand seen by then."""
        units = local_units(quantiles, demands)
        calibrated = _calibrated(quantiles, demands, units)
        return cls(calibrated, units, _misses(calibrated, demands))

    @classmethod
    def uncalibrated(cls, quantiles: FloatArray, demands: FloatArray) -> "Forecasts":
        """Of quantiles that nothing has been met after: a single look."""
        units = local_units(quantiles, demands)
        return cls(quantiles, units, np.zeros(len(demands)))

    def at(self, rows: IntArray, horizons: FloatArray, logits: FloatArray) -> FloatArray:
        """Demand at a horizon and level, interpolated; shape ``(lanes,)`` all.

        Beyond the outermost horizons and levels, those.
        """
        last_horizon, last_level = len(HORIZONS) - 2, len(LEVELS) - 2
        at_horizon = np.interp(horizons, HORIZONS, np.arange(len(HORIZONS)))
        at_level = np.interp(logits, _LOGITS, np.arange(len(LEVELS)))
        horizon = np.minimum(at_horizon.astype(np.int64), last_horizon)
        level = np.minimum(at_level.astype(np.int64), last_level)
        further, higher = at_horizon - horizon, at_level - level
        flat = self.quantiles.reshape(-1)
        first = (rows * len(HORIZONS) + horizon) * len(LEVELS) + level
        near = flat[first] + higher * (flat[first + 1] - flat[first])
        first = first + len(LEVELS)
        far = flat[first] + higher * (flat[first + 1] - flat[first])
        between: FloatArray = near + further * (far - near)
        return between


def ordered(quantiles: FloatArray) -> FloatArray:
    """Ascending along levels, at least 0: nets of their own may cross."""
    return np.maximum(np.sort(quantiles, axis=-1), 0.0)


def local_units(quantiles: FloatArray, demands: FloatArray) -> FloatArray:
    """Half of the gap between the highest quantile and the median, and a little of the level."""
    gap = quantiles[:, UNIT_HORIZON, -1] - quantiles[:, UNIT_HORIZON, 0]
    units: FloatArray = 0.5 * gap + UNIT_OF_DEMAND * demands + LEAST_UNIT
    return units


def _calibrated(quantiles: FloatArray, demands: FloatArray, units: FloatArray) -> FloatArray:
    """Each quantile with an offset that rises after a miss and falls after none.

    So that demand exceeds it as often as its level says, whatever has changed (Gibbs and Candes,
    Adaptive Conformal Inference Under Distribution Shift, 2021). After row k it has learnt from
    the outcomes up to row k.
    """
    rows = len(demands)
    calibrated = np.empty_like(quantiles)
    offset = np.zeros(quantiles.shape[1:])
    horizons = np.array(HORIZONS)
    expected = 1.0 - np.array(LEVELS)
    which = np.arange(len(HORIZONS))
    for row in range(rows):
        made = row - horizons
        known = made >= 0
        if known.any():
            missed = demands[row] > calibrated[made[known], which[known]]
            moved = offset[known] + CALIBRATION_PACE * (missed - expected)
            offset[known] = np.clip(moved, LEAST_OFFSET, MOST_OFFSET)
        calibrated[row] = quantiles[row] + units[row] * offset
    return np.maximum(np.maximum.accumulate(calibrated, axis=-1), 0.0)


def _misses(quantiles: FloatArray, demands: FloatArray) -> FloatArray:
    horizon, level = _WATCHED
    ahead = HORIZONS[horizon]
    exceeded = np.full(len(demands), 1.0 - LEVELS[level])
    exceeded[ahead:] = demands[ahead:] > quantiles[:-ahead, horizon, level]
    smoothed = np.empty(len(demands))
    usual = 0.0
    for row, one in enumerate((exceeded - (1.0 - LEVELS[level])).tolist()):
        usual += MISSES_PACE * (one - usual)
        smoothed[row] = usual
    return smoothed
