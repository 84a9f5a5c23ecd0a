"""The numbers that define a fleet: what contradicts itself is refused by name."""

import math

import pytest

from shared.core.parameters import FleetParameters
from shared.errors import BadSetting


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ({"min_servers": 101.0}, "MIN_SERVERS <= MAX_SERVERS"),
        ({"min_servers": -1.0}, "MIN_SERVERS <= MAX_SERVERS"),
        ({"min_servers": math.nan}, "MIN_SERVERS <= MAX_SERVERS"),
        ({"max_servers": math.inf}, "MIN_SERVERS <= MAX_SERVERS"),
        ({"max_servers": math.nan}, "MIN_SERVERS <= MAX_SERVERS"),
        ({"action_factor": 0.0}, "ACTION_FACTOR"),
        ({"action_factor": -5.0}, "ACTION_FACTOR"),
        ({"action_factor": math.inf}, "ACTION_FACTOR"),
        ({"action_factor": math.nan}, "ACTION_FACTOR"),
        ({"over_prov_factor": -0.1}, "OVER_PROV_FACTOR"),
        ({"over_prov_factor": math.inf}, "OVER_PROV_FACTOR"),
        ({"over_prov_factor": math.nan}, "OVER_PROV_FACTOR"),
        ({"history_len": 1}, "HISTORY_LEN"),
        ({"reward": "kind"}, "REWARD"),
    ],
)
def test_refused(numbers, names):
    with pytest.raises(BadSetting, match=names):
        FleetParameters(**numbers)


@pytest.mark.parametrize(
    "numbers",
    [
        {"min_servers": 0.0, "max_servers": 0.0},
        {"min_servers": 100.0},
        {"over_prov_factor": 0.0},
        {"history_len": 2},
        {"action_factor": 0.5},
    ],
)
def test_taken(numbers):
    assert FleetParameters(**numbers)


def test_a_decision_meets_the_demand_after_its_servers_came_up():
    assert FleetParameters(history_len=5).lead_steps == 6


def test_observation_fields_are_demands_then_targets_oldest_first():
    assert FleetParameters(history_len=2).observation_fields == (
        "demand[-2]",
        "demand[-1]",
        "target[-2]",
        "target[-1]",
    )
