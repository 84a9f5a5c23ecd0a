"""Forecasters as baselines of a backtest: Holt-Winters and gradient-boosted trees.

They need the extra `bench`; one whose library is not installed is left out, with a note.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.fields import calendar_fields
from shared.core.history import History
from shared.core.observation import DAY_SECONDS, Encoder
from shared.core.parameters import FleetParameters
from shared.core.tuning import fit_margin

LEAST_ROWS = 200
"""Rows of the training part below which a forecaster is left out."""
FIT_ROWS = 12_000
"""Newest rows of the training part that Holt-Winters is fitted to: eight days of minutes."""
VALIDATION = 0.15
"""Last fraction of the training part, for LightGBM's early stopping."""
MAX_TREES = 800
PATIENCE_TREES = 40
SETTINGS = {
    "objective": "quantile",
    "learning_rate": 0.08,
    "num_leaves": 31,
    "min_data_in_leaf": 40,
    "num_threads": 2,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
"""LightGBM's parameters: a lower learning rate than its default, else near its defaults."""


class Forecaster(Protocol):
    """A fitted forecaster."""

    def decisions(self, history: History, parameters: FleetParameters) -> FloatArray:
        """Requested targets after each row, in servers, shape ``(rows,)``."""
        ...


class HoltWinters:
    """Additive and damped, with a daily season where two days are recorded, plus a buffer."""

    def __init__(self, training: History, parameters: FleetParameters) -> None:
        """Fitted to `training`. Raises `ImportError` without statsmodels."""
        from statsmodels.tsa.holtwinters import ExponentialSmoothing

        demands = training.demands[-FIT_ROWS:]
        day = round(DAY_SECONDS / training.step_seconds)
        self._season = day if 2 <= day <= len(demands) // 2 else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of slow convergence, which the cost shows
            fit = ExponentialSmoothing(
                demands,
                trend="add",
                damped_trend=True,
                seasonal="add" if self._season > 1 else None,
                seasonal_periods=self._season if self._season > 1 else None,
                initialization_method="heuristic" if self._season > 1 else "estimated",
            ).fit()
        numbers: dict[str, Any] = fit.params
        names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
        values = (float(numbers[name]) for name in names)
        self._alpha, self._beta, self._gamma, self._phi = (
            value if np.isfinite(value) else 0.0 for value in values
        )
        self._seasons = np.zeros(self._season)
        if self._season > 1:
            # By the row's own position, so that a history can begin anywhere.
            self._seasons = np.roll(
                numbers["initial_seasons"], (len(training.demands) - len(demands)) % self._season
            )
        self._buffer = fit_margin(
            self._forecast(training, parameters), training.demands, "added", parameters
        )

    def decisions(self, history: History, parameters: FleetParameters) -> FloatArray:
        return self._forecast(history, parameters) + self._buffer

    def _forecast(self, history: History, parameters: FleetParameters) -> FloatArray:
        """``lead_steps`` ahead of each row, in one pass (recursions of Hyndman et al., 2008)."""
        seasons = self._seasons.tolist()
        lead, period, phi = parameters.lead_steps, self._season, self._phi
        reach = sum(phi**step for step in range(1, lead + 1))
        level, slope = float(history.demands[0]) - seasons[0], 0.0
        forecast = np.empty_like(history.demands)
        for row, demand in enumerate(history.demands.tolist()):
            expected = level + phi * slope
            season = seasons[row % period]
            new_level = self._alpha * (demand - season) + (1 - self._alpha) * expected
            slope = self._beta * (new_level - level) + (1 - self._beta) * phi * slope
            seasons[row % period] = self._gamma * (demand - expected) + (1 - self._gamma) * season
            level = new_level
            forecast[row] = level + reach * slope + seasons[(row + lead) % period]
        return forecast


class QuantileTrees:
    """LightGBM at the critical fractile, on the fields of the calendar observation.

    As in the trained policy, inputs in servers are differences from the last demand, and the
    output is the change from it.
    """

    def __init__(self, training: History, parameters: FleetParameters) -> None:
        """Fitted to `training`. Raises `ImportError` without lightgbm."""
        import lightgbm

        lead = parameters.lead_steps
        self._encoder = Encoder(calendar_fields(parameters.history_len), lead)
        inputs = self._inputs(training)[:-lead]
        changes = training.demands[lead:] - training.demands[:-lead]
        settings = {**SETTINGS, "alpha": parameters.critical_fractile}
        kept = int((1 - VALIDATION) * len(changes))
        # The demand that the last decisions before the cut meet is beyond it.
        fitted = lightgbm.Dataset(inputs[: kept - lead], changes[: kept - lead])
        tried = lightgbm.train(
            settings,
            fitted,
            MAX_TREES,
            valid_sets=[lightgbm.Dataset(inputs[kept:], changes[kept:], reference=fitted)],
            callbacks=[lightgbm.early_stopping(PATIENCE_TREES, verbose=False)],
        )
        self._trees = lightgbm.train(
            settings, lightgbm.Dataset(inputs, changes), max(tried.best_iteration, 1)
        )

    def decisions(self, history: History, parameters: FleetParameters) -> FloatArray:  # noqa: ARG002
        change: FloatArray = self._trees.predict(self._inputs(history))
        return history.demands + change

    def _inputs(self, history: History) -> FloatArray:
        seen = self._encoder.encode(history, np.arange(len(history.demands)))
        for column, field in enumerate(self._encoder.fields):
            if field.startswith(("demand[", "mean[", "day_ago", "week_ago")):
                seen[:, column] -= history.demands
        return np.column_stack((seen, history.demands))


_FITS: dict[str, Callable[[History, FleetParameters], Forecaster]] = {
    "holt_winters": HoltWinters,
    "lightgbm": QuantileTrees,
}


def fit_forecasters(
    training: History, parameters: FleetParameters
) -> tuple[dict[str, Forecaster], list[str]]:
    """Fit each forecaster. Returns ``(forecasters by name, notes on those left out)``."""
    if len(training.demands) < LEAST_ROWS:
        return {}, [f"{' and '.join(_FITS)} are left out: fewer than {LEAST_ROWS} rows to fit to"]
    fitted: dict[str, Forecaster] = {}
    notes = []
    for name, fit in _FITS.items():
        try:
            fitted[name] = fit(training, parameters)
        except ImportError:
            notes.append(f"{name} is left out: install the extra `bench`")
    return fitted, notes
