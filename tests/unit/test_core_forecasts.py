"""Forecasts: interpolation between horizons and levels, and calibration by outcomes."""

import numpy as np
import pytest

from shared.core.forecasts import HORIZONS, LEVELS, Forecasts, logit

ROWS = 3_000


def forecasts_of(quantiles: np.ndarray, demands: np.ndarray | None = None) -> Forecasts:
    return Forecasts.of(quantiles, np.full(len(quantiles), 50.0) if demands is None else demands)


def test_at_a_grid_point_the_forecast_is_not_interpolated() -> None:
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.uniform(10, 90, (4, len(HORIZONS), len(LEVELS))), axis=-1)
    made = Forecasts(quantiles, np.ones(4), np.zeros(4))
    for row, horizon, level in ((0, 0, 0), (3, 7, 5), (2, 3, 2), (1, 7, 0)):
        found = made.at(
            np.array([row]), np.array([float(HORIZONS[horizon])]), logit(np.array([LEVELS[level]]))
        )
        assert found == pytest.approx(quantiles[row, horizon, level])


def test_between_grid_points_it_is_interpolated_and_clipped_outside() -> None:
    quantiles = np.broadcast_to(
        np.array(HORIZONS)[:, None] + 100.0 * np.arange(len(LEVELS)),
        (1, len(HORIZONS), len(LEVELS)),
    )
    made = Forecasts(np.ascontiguousarray(quantiles), np.ones(1), np.zeros(1))
    rows = np.zeros(4, dtype=np.int64)
    found = made.at(rows, np.array([5.0, 1.0, 25.0, 99.0]), np.full(4, -9.0))
    assert found.tolist() == [5, 1, 25, 30], "beyond the last horizon and level, those"
    middle = logit(np.array([0.5, 0.7])).mean()
    assert made.at(rows[:1], np.array([1.0]), np.array([middle])) == pytest.approx(51)


def test_after_calibration_the_coverage_is_that_of_the_levels() -> None:
    """A forecaster that always predicts about 50, for noisy demand around 60."""
    rng = np.random.default_rng(0)
    demands = 60 + 5 * rng.standard_normal(ROWS)
    spread = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    quantiles = np.broadcast_to(50 + spread, (ROWS, len(HORIZONS), len(LEVELS)))
    made = forecasts_of(quantiles, demands)
    for at, horizon in enumerate(HORIZONS):
        met = demands[1_500 + horizon :]
        covered = met[:, None] <= made.quantiles[1_500 : ROWS - horizon, at]
        np.testing.assert_allclose(covered.mean(axis=0), LEVELS, atol=0.06)


def test_calibration_uses_no_later_demand() -> None:
    rng = np.random.default_rng(0)
    demands = 50 + 5 * rng.standard_normal(400)
    quantiles = np.sort(rng.uniform(40, 60, (400, len(HORIZONS), len(LEVELS))), axis=-1)
    whole = forecasts_of(quantiles, demands)
    other = demands.copy()
    other[300:] = 500.0
    cut = forecasts_of(quantiles, other)
    assert np.array_equal(whole.quantiles[:300], cut.quantiles[:300])
    assert np.array_equal(whole.misses[:300], cut.misses[:300])
    assert whole.misses[-1] < 0.1 < cut.misses[-1]


def test_quantiles_stay_ascending_and_at_least_zero() -> None:
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.uniform(0, 3, (200, len(HORIZONS), len(LEVELS))), axis=-1)
    made = forecasts_of(quantiles, np.zeros(200))
    assert (np.diff(made.quantiles, axis=-1) >= 0).all()
    assert made.quantiles.min() >= 0
