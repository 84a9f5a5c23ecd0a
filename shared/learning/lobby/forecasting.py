"""Fit forecasting nets to recorded demand, with out-of-fold forecasts for the training part.

Forecasts of outcomes that the nets were trained on are too accurate, and a rule that is searched
on them would be overconfident. So recorded demand is split into folds (cross-fitting): each fold is
forecast by the nets that were not trained on it, and later rows by the mean of all nets.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.forecasts import HORIZONS, Forecasts, ordered
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.hindsight.optimizer import BATCH, Hindsight
from shared.learning.hindsight.samples import samples_of
from shared.learning.hindsight.synthetic_samples import with_synthetic
from shared.learning.models.quantile_nets import (
    FOLDS,
    HEADS,
    OF_EACH_FOLD,
    SAMPLE_SPEC,
    QuantileNets,
)
from shared.recorded_demand import Recorded

PASSES = 400
"""Maximum number of epochs over the recorded rows: with more, nets overfit short histories."""
LEAST_UPDATES = 300
MOST_UPDATES = 2_500
UPDATES_PER_ROUND = 50


Weights = dict[str, NDArray[np.float32]]
"""Weights of the nets by name."""


@dataclass(frozen=True, slots=True)
class Forecaster:
    """Nets fitted to the first rows of a series, and the times that each fold of nets left out."""

    nets: QuantileNets
    folds: tuple[tuple[float, float], ...]
    """Of each fold the interval [begin, end) of the rows left out, in seconds since 1970."""

    def quantiles(self, history: History, parameters: FleetParameters) -> FloatArray:
        """Quantiles after each row, ``(rows, horizons, levels)``: out of fold, or by all nets."""
        rows = np.arange(len(history.demands))
        found = self.nets.quantiles(SAMPLE_SPEC.observations(history, parameters, rows))
        together = found.mean(axis=0)
        for fold, (begin, end) in enumerate(self.folds):
            inside = (history.times >= begin) & (history.times < end)
            together[inside] = found[fold, inside]
        return ordered(together)

    def forecasts(self, history: History, parameters: FleetParameters) -> Forecasts:
        """The same, calibrated row by row on the demand clipped to the fleet's limits."""
        demands = parameters.within_limits(history.demands)
        return Forecasts.of(self.quantiles(history, parameters), demands)


def fit(
    recorded: Recorded,
    parameters: FleetParameters,
    seed: int,
    seconds: float = inf,
    updates: int | None = None,
    pretrained: Weights | None = None,
    tell: Callable[[float], None] = lambda _: None,
) -> Forecaster:
    """Fit nets to recorded demand, clipped to the fleet's limits.

    The training budget is `seconds` or `updates` (gradient updates of all nets), whichever is
    reached first. `pretrained` weights initialise the first net of each fold. `tell` is called with
    the completed fraction, 0 to 1.
    """
    nets = QuantileNets(seed)
    if pretrained is not None:
        nets.set_state(_begun(nets.get_state(), pretrained))
    samples = samples_of(recorded, SAMPLE_SPEC, parameters, np.random.default_rng(seed))
    usual = float(np.median(recorded.history.demands))
    samples = with_synthetic(samples, usual, SAMPLE_SPEC, parameters)
    rows = SAMPLE_SPEC.rows(recorded, parameters)
    edges = np.linspace(0, len(rows), FOLDS + 1).astype(int)
    reach = max(HORIZONS)
    left_out = [
        (max(int(begin) - reach, 0), int(end))
        for begin, end in pairwise(edges)
        for _ in range(OF_EACH_FOLD)
    ]
    hindsight = Hindsight(nets, samples, HEADS, seed, left_out=left_out)
    most = min(max(PASSES * len(rows) // BATCH, LEAST_UPDATES), updates or MOST_UPDATES)
    began, done, part = time.monotonic(), 0, 0.0
    while part < 1:
        state = hindsight.round(UPDATES_PER_ROUND, part)
        done += UPDATES_PER_ROUND
        part = max(done / most, (time.monotonic() - began) / seconds)
        tell(min(part, 1.0))
    nets.set_state(state)
    times = np.append(recorded.history.times[rows], np.inf)
    folds = tuple(
        (float(times[begin]) if begin else -np.inf, float(times[end]))
        for begin, end in pairwise(edges)
    )
    last = float(recorded.history.times[-1]) + 0.5 * recorded.history.step_seconds
    return Forecaster(nets, (*folds[:-1], (folds[-1][0], last)))


def _begun(state: Weights, pretrained: Weights) -> Weights:
    """Weights in which the first net of each fold is initialised with a pretrained one."""
    begun = {name: value.copy() for name, value in state.items()}
    for name, weights in pretrained.items():
        begun[name][::OF_EACH_FOLD] = weights[::OF_EACH_FOLD]
    return begun
