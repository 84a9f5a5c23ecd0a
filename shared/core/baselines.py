"""Plain rules that decide without learning, and that a policy has to beat."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.core.parameters import FleetParameters

TREND_DAMPING = 0.5
"""Part of the fitted slope that is believed to go on until the servers are up."""
TREND_HEADROOM = 0.1
"""Spare servers, as a fraction of the last demand."""
TREND_SPREADS = 2.0
"""Spare servers, in standard deviations of the recent demand around its trend."""


def trend(demands: ArrayLike, parameters: FleetParameters) -> NDArray[np.float64]:
    """Target in servers, shape ``(...)``, from the last demands ``(..., history_len)``.

    The last demand, plus half of its linear trend over the lead time, plus headroom. The three
    constants did best (geometric mean of costs) on the training parts of real traces and the
    notebook's sine; `tests/bench/rules.py` prints the comparison.
    """
    history = np.asarray(demands, dtype=np.float64)
    centred = np.arange(history.shape[-1]) - (history.shape[-1] - 1) / 2
    slope = history @ centred / (centred @ centred)
    residual = history - history.mean(axis=-1, keepdims=True) - slope[..., np.newaxis] * centred
    ahead = history[..., -1] + TREND_DAMPING * parameters.lead_steps * slope
    spare = TREND_HEADROOM * history[..., -1] + TREND_SPREADS * residual.std(axis=-1)
    target: NDArray[np.float64] = np.clip(
        ahead + spare, parameters.min_servers, parameters.max_servers
    )
    return target


def headroom(demand: ArrayLike, parameters: FleetParameters) -> NDArray[np.float64]:
    """Target in servers from a single demand: for when no history is at hand.

    A quarter above demand: the notebook's five-fold price of a missing server makes spare ones
    cheap, and a reader that has lost the environment can't know the trend.
    """
    target = np.asarray(demand, dtype=np.float64) * 1.25
    return np.clip(target, parameters.min_servers, parameters.max_servers)
