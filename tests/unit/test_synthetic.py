"""Made-up demand is demand: usable by the same code as recorded one, and not one curve."""

import numpy as np
import pytest

from shared.core.observation import DAY_SECONDS
from shared.core.parameters import FleetParameters
from shared.learning.hindsight.synthetic import ROWS, STEP_SECONDS, synthetic_history
from shared.recorded_demand import Recorded, decision_rows


@pytest.fixture(scope="module")
def histories():
    rng = np.random.default_rng(3)
    return [synthetic_history(rng) for _ in range(40)]


def test_it_is_demand_that_can_be_replayed(histories):
    for history in histories:
        assert np.isfinite(history.demands).all()
        assert history.demands.min() >= 0 < history.demands.max()
        np.testing.assert_allclose(np.diff(history.times), history.step_seconds)
        assert len(history.demands) < ROWS[1]
        assert len(decision_rows(Recorded.unbroken(history), FleetParameters())) > 500


def test_series_differ_in_pace_and_in_what_a_day_means(histories):
    assert len({history.step_seconds for history in histories}) >= len(STEP_SECONDS) // 2
    alike = []
    for history in histories:
        day = round(DAY_SECONDS / history.step_seconds)
        if len(history.demands) >= 2 * day:
            alike.append(np.corrcoef(history.demands[day:], history.demands[:-day])[0, 1])
    assert max(alike) > 0.8, "some days repeat"
    assert min(alike) < 0.3, "some do not"


def test_the_same_seed_makes_the_same_series():
    one, again, other = (synthetic_history(np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.demands, again.demands)
    assert len(one.demands) != len(other.demands) or not np.array_equal(one.demands, other.demands)
