"""The plain rules: what they ask for, and that they stay within the fleet's limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.parameters import FleetParameters
from shared.core.rules import TREND_HEADROOM, headroom, trend

WIDE = FleetParameters(min_servers=0.0, max_servers=1e9)
HISTORIES = st.lists(st.floats(0, 1e6), min_size=5, max_size=5)


@given(st.floats(0, 1e6))
def test_a_constant_demand_gets_itself_and_the_headroom(demand):
    assert trend([demand] * 5, WIDE) == pytest.approx(demand * (1 + TREND_HEADROOM), rel=1e-9)


def test_a_straight_rise_by_hand():
    """Last 14, slope 1, half of 6 steps ahead, a tenth spare, no spread around the line."""
    assert trend([10.0, 11.0, 12.0, 13.0, 14.0], WIDE) == pytest.approx(14 + 0.5 * 6 + 1.4)


def test_a_zigzag_by_hand():
    """No slope; residuals -4, 6, -4, 6, -4 have a standard deviation of the root of 24."""
    assert trend([10.0, 20.0, 10.0, 20.0, 10.0], WIDE) == pytest.approx(10 + 1 + 2 * 24**0.5)


def test_a_longer_lead_time_looks_further_ahead():
    rise = [10.0, 11.0, 12.0]
    near = trend(rise, FleetParameters(0.0, 1e9, history_len=3))
    far = trend(rise, FleetParameters(0.0, 1e9, history_len=9))
    assert far - near == pytest.approx(0.5 * 6)


@given(HISTORIES, st.floats(0.01, 100))
def test_ten_times_the_demand_gets_ten_times_the_servers(history, scale):
    scaled = [demand * scale for demand in history]
    wide = FleetParameters(min_servers=0.0, max_servers=1e12)
    once, times = trend(history, wide), trend(scaled, wide)
    assert times == pytest.approx(scale * once, rel=1e-6, abs=1e-6 * max(1.0, *scaled))


@given(HISTORIES)
def test_every_rule_stays_within_the_limits(history):
    parameters = FleetParameters(min_servers=10.0, max_servers=100.0)
    for target in (trend(history, parameters), headroom(history[-1], parameters)):
        assert 10.0 <= target <= 100.0


@given(st.lists(HISTORIES, min_size=1, max_size=5))
def test_many_histories_at_once_are_as_each_alone(histories):
    together = trend(histories, WIDE)
    assert together.shape == (len(histories),)
    assert together == pytest.approx([float(trend(history, WIDE)) for history in histories])


@pytest.mark.parametrize(
    ("demand", "target"), [(40.0, 50.0), (4.0, 10.0), (0.0, 10.0), (90.0, 100.0), (1e6, 100.0)]
)
def test_headroom_is_a_quarter_above_demand_within_the_limits(demand, target):
    assert headroom(demand, FleetParameters()) == target


def test_headroom_of_many():
    assert headroom(np.array([40.0, 60.0]), FleetParameters()).tolist() == [50.0, 75.0]
