"""Plain rules that decide without learning, and that a policy has to beat.

`trend` and `headroom` are what the live services fall back to. The others are forecasts over a
whole series: the servers needed `lead_steps` after each row, from that row and those before it.
`shared.core.tuning` chooses their parameters and what is added for safety.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.observation import Encoder
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
    slope, spread = _line(history)
    ahead = history[..., -1] + TREND_DAMPING * parameters.lead_steps * slope
    spare = TREND_HEADROOM * history[..., -1] + TREND_SPREADS * spread
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


def last_demand(history: History, parameters: FleetParameters) -> FloatArray:  # noqa: ARG001
    """What is needed now, shape ``(rows,)``."""
    return history.demands


def nothing(history: History, parameters: FleetParameters) -> FloatArray:  # noqa: ARG001
    """No servers: what a constant is added to."""
    return np.zeros_like(history.demands)


def live_rule(history: History, parameters: FleetParameters) -> FloatArray:
    """`trend` after each row, as the live services run it."""
    return trend(_windows(history.demands, parameters.history_len), parameters)


def damped_trend(
    history: History,
    parameters: FleetParameters,
    *,
    window: int,
    damping: float,
    spreads: float,
) -> FloatArray:
    """The last demand, `damping` of the last `window` rows' trend, and `spreads` around it."""
    slope, spread = _line(_windows(history.demands, window))
    ahead: FloatArray = history.demands + damping * parameters.lead_steps * slope
    return ahead + spreads * spread


def target_tracking(
    history: History,
    parameters: FleetParameters,  # noqa: ARG001
    *,
    cooldown: int,
) -> FloatArray:
    """Demand as a cloud autoscaler follows it: up at once, down after `cooldown` quiet steps.

    Times ``1 / target utilisation`` it is the number of servers. A scale-in waits until
    `cooldown` steps have gone by since the last change (AWS Application Auto Scaling's
    target tracking; Kubernetes' stabilisation window is a close relative).
    """
    followed = np.empty_like(history.demands)
    level, quiet = -np.inf, 0
    for row, demand in enumerate(history.demands.tolist()):
        quiet += 1
        if demand > level or (demand < level and quiet > cooldown):
            level, quiet = demand, 0
        followed[row] = level
    return followed


def seasonal(
    history: History, parameters: FleetParameters, *, period: str, weight: float
) -> FloatArray:
    """The last demand, and `weight` of how demand went on a `period` (day, week) ago.

    By timestamps. Last week's answer is yesterday's where history does not reach a week, and
    none where it does not reach a day.
    """
    periods = ("week_ago", "day_ago") if period == "week" else ("day_ago",)
    lead = parameters.lead_steps
    fields = [f"{when}[+{steps}]" for when in periods for steps in (0, lead)]
    seen = Encoder(fields, lead).encode(history, np.arange(len(history.demands)))
    shift = np.zeros_like(history.demands)
    for at in range(2 * len(periods) - 2, -1, -2):  # the period asked for comes last and wins
        went_on = seen[:, at + 1] - seen[:, at]
        shift = np.where(np.isnan(went_on), shift, went_on)
    ahead: FloatArray = history.demands + weight * shift
    return ahead


def oracle(history: History, parameters: FleetParameters) -> FloatArray:
    """The demand that each decision will meet: no rule, the floor. The end is the last demand."""
    lead = parameters.lead_steps
    return np.concatenate((history.demands[lead:], np.repeat(history.demands[-1:], lead)))[
        : len(history.demands)
    ]


def _windows(demands: FloatArray, width: int) -> FloatArray:
    """The last `width` demands at each row, ``(rows, width)``; before the first, the first."""
    return sliding_window_view(np.concatenate((np.repeat(demands[:1], width - 1), demands)), width)


def _line(history: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope of a straight line through ``(..., width)``, and the standard deviation around it."""
    centred = np.arange(history.shape[-1]) - (history.shape[-1] - 1) / 2
    slope: FloatArray = history @ centred / (centred @ centred)
    residual = history - history.mean(axis=-1, keepdims=True) - slope[..., np.newaxis] * centred
    return slope, residual.std(axis=-1)
