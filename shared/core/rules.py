"""Rules: baselines that decide without learning, and that a trained policy has to beat.

The live services fall back to `trend` and `headroom`. The others are forecasts over a whole series:
the servers needed `lead_steps` after each row, from that row and those before it.
`shared.core.tuning` chooses their parameters and a safety margin.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.observation import Encoder
from shared.core.parameters import FleetParameters

TREND_DAMPING = 0.5
"""Fraction of the fitted slope that is extrapolated over the lead time."""
TREND_HEADROOM = 0.1
"""Spare servers, as a fraction of the last demand."""
TREND_SPREADS = 2.0
"""Spare servers, in standard deviations of recent demand around its trend."""


def trend(demands: ArrayLike, parameters: FleetParameters) -> FloatArray:
    """Target in servers, shape ``(...)``, from the last demands ``(..., history_len)``.

    The last demand, plus half of its linear trend over the lead time, plus headroom. The three
    constants did best (geometric mean of costs) on the training parts of real traces and the
    notebook's sine; `tests/bench/rules.py` prints the comparison.
    """
    history = np.asarray(demands, dtype=np.float64)
    slope, spread = _line(history)
    ahead = history[..., -1] + TREND_DAMPING * parameters.lead_steps * slope
    spare = TREND_HEADROOM * history[..., -1] + TREND_SPREADS * spread
    return parameters.within_limits(ahead + spare)


def headroom(demand: ArrayLike, parameters: FleetParameters) -> FloatArray:
    """Target in servers from a single demand, elementwise, for when there is no history.

    25 % above demand: at the notebook's underage cost of 5 spare servers are cheap, and a service
    that has lost the environment does not know the trend.
    """
    return parameters.within_limits(np.asarray(demand, dtype=np.float64) * 1.25)


def last_demand(history: History, parameters: FleetParameters) -> FloatArray:  # noqa: ARG001
    """The present demand, shape ``(rows,)``."""
    return history.demands


def nothing(history: History, parameters: FleetParameters) -> FloatArray:  # noqa: ARG001
    """Zero servers, shape ``(rows,)``: with a margin, a constant."""
    return np.zeros_like(history.demands)


def live_rule(history: History, parameters: FleetParameters) -> FloatArray:
    """`trend` after each row, as the live services compute it, shape ``(rows,)``."""
    return trend(_windows(history.demands, parameters.history_len), parameters)


def damped_trend(
    history: History,
    parameters: FleetParameters,
    *,
    window: int,
    damping: float,
    spreads: float,
) -> FloatArray:
    """The last demand plus a damped linear trend over the last `window` rows, shape ``(rows,)``.

    `damping` is the fraction of the slope that is extrapolated; `spreads` standard deviations of
    demand around the trend are added.
    """
    slope, spread = _line(_windows(history.demands, window))
    ahead: FloatArray = history.demands + damping * parameters.lead_steps * slope
    return ahead + spreads * spread


def target_tracking(
    history: History,
    parameters: FleetParameters,  # noqa: ARG001
    *,
    cooldown: int,
) -> FloatArray:
    """Demand as a cloud autoscaler follows it: up at once, down after a cooldown.

    Times ``1 / target utilisation`` it is the number of servers. A scale-in waits until more than
    `cooldown` steps have passed since the last change (target tracking of AWS Application Auto
    Scaling; similar to Kubernetes' stabilization window). Shape ``(rows,)``.
    """
    followed = np.empty_like(history.demands)
    level, since_change = -np.inf, 0
    for row, demand in enumerate(history.demands.tolist()):
        since_change += 1
        if demand > level or (demand < level and since_change > cooldown):
            level, since_change = demand, 0
        followed[row] = level
    return followed


def seasonal(
    history: History, parameters: FleetParameters, *, period: str, weight: float
) -> FloatArray:
    """The last demand plus `weight` of its change a `period` (day, week) ago, over the lead time.

    By timestamps. With less than a week of history, the change of a day ago; with less than a day,
    none. Shape ``(rows,)``.
    """
    periods = ("week_ago", "day_ago") if period == "week" else ("day_ago",)
    lead = parameters.lead_steps
    fields = [f"{when}[+{steps}]" for when in periods for steps in (0, lead)]
    seen = Encoder(fields, lead).encode(history, np.arange(len(history.demands)))
    shift = np.zeros_like(history.demands)
    for at in range(2 * len(periods) - 2, -1, -2):  # `period` comes last and takes precedence
        change = seen[:, at + 1] - seen[:, at]
        shift = np.where(np.isnan(change), shift, change)
    ahead: FloatArray = history.demands + weight * shift
    return ahead


def oracle(history: History, parameters: FleetParameters) -> FloatArray:
    """The demand that each decision will meet, shape ``(rows,)``: a lower bound of the cost.

    Not a rule, since it looks ahead. The last demand is repeated beyond the end.
    """
    lead = parameters.lead_steps
    return np.concatenate((history.demands[lead:], np.repeat(history.demands[-1:], lead)))[
        : len(history.demands)
    ]


def _windows(demands: FloatArray, width: int) -> FloatArray:
    """The last `width` demands at each row, ``(rows, width)``, padded with the first demand."""
    return sliding_window_view(np.concatenate((np.repeat(demands[:1], width - 1), demands)), width)


def _line(history: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``(slope, residual standard deviation)`` of a least-squares line through ``(..., width)``."""
    centred = np.arange(history.shape[-1]) - (history.shape[-1] - 1) / 2
    slope: FloatArray = history @ centred / (centred @ centred)
    residual = history - history.mean(axis=-1, keepdims=True) - slope[..., np.newaxis] * centred
    return slope, residual.std(axis=-1)
