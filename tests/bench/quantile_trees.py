"""Quantile forecasts by LightGBM for the lobby's rule: a baseline, not part of the product."""

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.forecasts import HORIZONS, LEVELS, Forecasts, logit
from shared.core.observation import Encoder
from shared.learning.backtest import Case
from shared.learning.forecasters import SETTINGS
from shared.learning.models.quantile_nets import SAMPLE_SPEC

FITTED_HORIZONS = (2, 6, 13, 30)
FITTED_LEVELS = (0.5, 5 / 6, 0.97)
"""Only these are fitted, because each is a separate model; the others are interpolated."""
TREES = 150
FOLDS = 2
"""Parts of the training part; each is forecast by the trees of the others."""


def trees_of(case: Case) -> Forecasts:
    """Forecasts after each row: out of fold on the training part, by trees of all of it afterwards.

    Raises `ImportError` if lightgbm is not installed.
    """
    history, start = case.history, case.start
    rows = np.arange(len(history.demands))
    inputs = Encoder(SAMPLE_SPEC.fields, SAMPLE_SPEC.lead_steps).encode(history, rows)
    for column, field in enumerate(SAMPLE_SPEC.fields):
        if field.startswith(("demand[", "mean[", "day_ago", "week_ago")):
            inputs[:, column] -= history.demands
    inputs = np.column_stack((inputs, history.demands))
    fitted = np.empty((len(rows), len(FITTED_HORIZONS), len(FITTED_LEVELS)))
    for at, horizon in enumerate(FITTED_HORIZONS):
        for which, level in enumerate(FITTED_LEVELS):
            fitted[:, at, which] = _one(history.demands, inputs, start, horizon, level)
    wide = np.array(
        [
            [np.interp(HORIZONS, FITTED_HORIZONS, row[:, level]) for level in range(len(LEVELS))]
            for row in _at_all_levels(fitted)
        ]
    ).transpose(0, 2, 1)
    quantiles = np.maximum(np.sort(wide + history.demands[:, None, None], axis=-1), 0.0)
    return Forecasts.of(quantiles, history.demands)


def _at_all_levels(fitted: FloatArray) -> FloatArray:
    at = np.interp(logit(np.array(LEVELS)), logit(np.array(FITTED_LEVELS)), [0.0, 1.0, 2.0])
    low = np.minimum(at.astype(int), 1)
    wide: FloatArray = fitted[..., low] + (at - low) * (fitted[..., low + 1] - fitted[..., low])
    return wide


def _one(
    demands: FloatArray, inputs: FloatArray, start: int, horizon: int, level: float
) -> FloatArray:
    """Quantiles, at one level, of the change of demand over `horizon` steps after each row."""
    import lightgbm

    changes = np.full(len(demands), np.nan)
    changes[:-horizon] = demands[horizon:] - demands[:-horizon]
    settings = {**SETTINGS, "alpha": level, "num_threads": 1}
    found = np.empty(len(demands))

    def fit(rows: np.ndarray) -> "lightgbm.Booster":
        return lightgbm.train(settings, lightgbm.Dataset(inputs[rows], changes[rows]), TREES)

    learnt = np.arange(start - horizon)
    found[start - horizon :] = fit(learnt).predict(inputs[start - horizon :])
    for fold in range(FOLDS):
        inside = learnt * FOLDS // len(learnt) == fold
        met_inside = np.zeros(len(learnt), dtype=bool)
        met_inside[:-horizon] = inside[horizon:]
        found[learnt[inside]] = fit(learnt[~inside & ~met_inside]).predict(inputs[learnt[inside]])
    return found
