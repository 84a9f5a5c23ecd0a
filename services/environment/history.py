"""The recorded demand of a live fleet, as much as its observation needs."""

from collections.abc import Sequence

import numpy as np

from shared.core.history import History, within_limits
from shared.core.observation import Encoder
from shared.core.parameters import FleetParameters
from shared.messages import RecordedStep
from shared.recorded_demand import recorded_of

MARGIN_STEPS = 3
"""Rows kept beyond the encoder's reach, for the row nearest to a moment."""


def empty_history(step_seconds: float) -> History:
    """The history of a fleet without recorded demand."""
    return History(np.empty(0), np.empty(0), step_seconds)


def history_of(
    steps: Sequence[RecordedStep], parameters: FleetParameters, step_seconds: float
) -> History:
    """The history of a fleet's recorded steps; equals `with_row` of each, and is much faster."""
    return within_limits(recorded_of(steps, step_seconds).history, parameters)


def with_row(history: History, time: float, demand: float, parameters: FleetParameters) -> History:
    """The history with one more row; `time` in seconds since 1970, `demand` as reported.

    If the clock was set back, rows with a later time are dropped, as in the trainer.
    """
    kept = np.searchsorted(history.times, time)
    return History(
        np.append(history.times[:kept], time),
        np.append(history.demands[:kept], parameters.one_within_limits(demand)),
        history.step_seconds,
    )


def within_reach(history: History, encoder: Encoder) -> History:
    """The newest rows, as many as the encoder needs for the newest observation."""
    if not len(history.times):
        return history
    oldest = history.times[-1] - encoder.reach_seconds - MARGIN_STEPS * history.step_seconds
    first = min(
        int(np.searchsorted(history.times, oldest)),
        max(0, len(history.times) - encoder.reach_rows),
    )
    return History(history.times[first:], history.demands[first:], history.step_seconds)
