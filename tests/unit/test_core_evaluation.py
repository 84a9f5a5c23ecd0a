"""The one scoring function, by hand."""

import pytest

from shared.core.evaluation import Score, score


def test_by_hand():
    found = score([5.0, 3.0, 4.0, 0.0], [4.0, 5.0, 4.0, 0.5])
    assert found == Score(
        steps=4,
        cost_per_step=pytest.approx((1 + 10 + 0 + 2.5) / 4),
        under_steps_pct=pytest.approx(50.0),
        unserved_server_steps=pytest.approx(2.5),
        idle_server_steps=pytest.approx(1.0),
    )


@pytest.mark.parametrize(("under_factor", "cost"), [(5.0, 10.0), (1.0, 2.0), (0.0, 0.0)])
def test_the_price_of_a_missing_server(under_factor, cost):
    assert score([3.0], [5.0], under_factor).cost_per_step == cost


def test_meeting_demand_exactly_costs_nothing():
    found = score([3.0, 0.0], [3.0, 0.0])
    assert (found.cost_per_step, found.under_steps_pct) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("allocations", "demands"),
    [([1.0, 2.0], [1.0]), ([], []), ([[1.0]], [[1.0]]), (1.0, 1.0)],
    ids=["lengths differ", "nothing", "two axes", "no axis"],
)
def test_what_can_not_be_scored(allocations, demands):
    with pytest.raises(ValueError, match=r"must match, \(steps,\)"):
        score(allocations, demands)
