"""What a step is worth: tables by hand, and what sets the two rewards apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.parameters import FleetParameters
from shared.core.rewards import asymmetric, notebook, reward_of

SERVERS = st.integers(0, 10_000).map(float)


@pytest.mark.parametrize(
    ("allocation", "demand", "factor", "reward"),
    [
        (30.0, 30.0, 5.0, 1.0),
        (50.0, 30.0, 5.0, -20.0),
        (10.0, 30.0, 5.0, -100.0),
        (10.0, 30.0, 2.0, -40.0),
        (10.0, 30.0, 0.0, 0.0),
        (0.0, 0.0, 5.0, 1.0),
        (0.0, 4.0, 5.0, -20.0),
        (4.0, 0.0, 5.0, -4.0),
    ],
)
def test_asymmetric(allocation, demand, factor, reward):
    assert asymmetric(allocation, demand, factor) == reward


@pytest.mark.parametrize(
    ("allocation", "demand", "factor", "reward"),
    [
        (30.0, 30.0, 5.0, 1.0),
        (50.0, 30.0, 5.0, 80.0),  # the fault: 4 for each idle server
        (10.0, 30.0, 5.0, -200.0),
        (50.0, 30.0, 0.0, -20.0),
        (10.0, 30.0, 0.0, -100.0),
        (50.0, 30.0, 2.0, 20.0),
        (0.0, 0.0, 5.0, 1.0),
    ],
)
def test_notebook(allocation, demand, factor, reward):
    assert notebook(allocation, demand, factor) == reward


@given(SERVERS, st.integers(1, 1_000).map(float))
def test_asymmetric_pays_for_one_thing_only_and_never_for_idle_servers(demand, error):
    over, under = (asymmetric(demand + e, demand, 5.0) for e in (error, -error))
    assert asymmetric(demand, demand, 5.0) == 1.0
    assert over == -error
    assert under == 5.0 * over


@given(SERVERS, st.integers(1, 1_000).map(float), st.integers(1, 1_000).map(float))
def test_the_notebook_pays_more_the_more_servers_idle(demand, idle, more):
    assert notebook(demand + idle + more, demand, 5.0) > notebook(demand + idle, demand, 5.0)


@pytest.mark.parametrize(("name", "reward"), [("asymmetric", -20.0), ("notebook", 80.0)])
def test_the_setting_chooses(name, reward):
    assert reward_of(50.0, 30.0, FleetParameters(reward=name)) == reward


def test_the_price_of_a_missing_server_is_the_setting():
    assert reward_of(10.0, 30.0, FleetParameters(over_prov_factor=3.0)) == -60.0


@pytest.mark.parametrize("rule", [asymmetric, notebook])
def test_elementwise(rule):
    allocations, demands = np.array([[30.0, 50.0], [10.0, 0.0]]), np.array([[30.0, 30.0]] * 2)
    singly = [
        [float(rule(a, d, 5.0)) for a, d in zip(*rows, strict=True)]
        for rows in zip(allocations, demands, strict=True)
    ]
    assert rule(allocations, demands, 5.0).tolist() == singly
