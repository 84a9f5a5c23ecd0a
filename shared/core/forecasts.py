"""Quantile forecasts of demand at several horizons: interpolation and online calibration.

Demand is exogenous, so the forecast made after each row of a series depends on the series alone.
All forecasts are therefore computed before a roll-out begins, and every contender gets the same.
"""

from dataclasses import dataclass

import numpy as np

from shared.core.arrays import FloatArray, IntArray

HORIZONS = (1, 2, 4, 6, 9, 13, 20, 30)
"""Forecast horizons, in steps ahead."""
LEVELS = (0.5, 0.7, 5 / 6, 0.9, 0.94, 0.97)
"""Quantile levels: the probability that demand stays below the forecast."""
LEAD_STEPS = 6
"""Horizon, in steps, of the observation's local unit and time fields."""
CALIBRATION_PACE = 0.005
"""Step size of a quantile's offset per outcome, in local units (adaptive conformal inference)."""
LEAST_OFFSET, MOST_OFFSET = -1.0, 3.0
"""Bounds of the offset, in local units."""
MISSES_PACE = 0.05
"""Weight of the newest outcome in the moving average of misses (`Forecasts.misses`)."""
UNIT_HORIZON = HORIZONS.index(9)
"""Index of the horizon whose spread of quantiles determines the local unit (`local_units`)."""
UNIT_OF_DEMAND, LEAST_UNIT = 0.03, 0.3
"""Added to the local unit: this fraction of the demand, and this many servers."""
_WATCHED = HORIZONS.index(6), LEVELS.index(0.9)
"""Indices of the horizon and level whose misses are counted."""


def logit(level: float | FloatArray) -> FloatArray:
    """Log odds of a probability: the scale on which quantile levels are interpolated."""
    level = np.asarray(level, dtype=np.float64)
    odds: FloatArray = np.log(level / (1.0 - level))
    return odds


_LOGITS = logit(np.array(LEVELS))


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The forecasts made after each row of a series, in servers."""

    quantiles: FloatArray
    """Demand quantiles, ``(rows, horizons, levels)``, ascending along levels."""
    units: FloatArray
    """The local unit, ``(rows,)``: how far demand may move during a server's start, in servers."""
    misses: FloatArray
    """Recent frequency of demand above its 0.9 quantile six steps ahead, minus the nominal 0.1;
    ``(rows,)``."""

    @classmethod
    def of(cls, quantiles: FloatArray, demands: FloatArray) -> "Forecasts":
        """Calibrate a model's quantiles, each row on the demand up to it; shapes as above."""
        units = local_units(quantiles, demands)
        calibrated = _calibrated(quantiles, demands, units)
        return cls(calibrated, units, _misses(calibrated, demands))

    @classmethod
    def uncalibrated(cls, quantiles: FloatArray, demands: FloatArray) -> "Forecasts":
        """Take a model's quantiles as they are: for single observations without known outcomes."""
        units = local_units(quantiles, demands)
        return cls(quantiles, units, np.zeros(len(demands)))

    def at(self, rows: IntArray, horizons: FloatArray, logits: FloatArray) -> FloatArray:
        """Forecasts at any horizon (steps) and level (log odds), interpolated; all ``(lanes,)``.

        Horizons and levels outside the grid are clipped to its ends.
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
    """Quantiles sorted along levels and at least 0: those that a model outputs may cross."""
    return np.maximum(np.sort(quantiles, axis=-1), 0.0)


def local_units(quantiles: FloatArray, demands: FloatArray) -> FloatArray:
    """The local unit, ``(rows,)``, in servers: a scale for buffers and offsets.

    It is half of the gap between the highest quantile and the median nine steps ahead, plus
    `UNIT_OF_DEMAND` of the demand and `LEAST_UNIT`.
    """
    gap = quantiles[:, UNIT_HORIZON, -1] - quantiles[:, UNIT_HORIZON, 0]
    units: FloatArray = 0.5 * gap + UNIT_OF_DEMAND * demands + LEAST_UNIT
    return units


def _calibrated(quantiles: FloatArray, demands: FloatArray, units: FloatArray) -> FloatArray:
    """Quantiles plus an offset each, which rises after a miss and falls otherwise.

    So demand exceeds a quantile as often as its level says, even if its distribution shifts (Gibbs
    and Candes, Adaptive Conformal Inference Under Distribution Shift, 2021). The offsets of row k
    use the outcomes up to row k only.
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
