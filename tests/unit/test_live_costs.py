"""What a fleet's decisions have cost, beside what ran or the plain rule."""

from datetime import datetime, timedelta

import pytest

from services.cli.live_costs import live_costs
from services.environment.step import StepInput, next_due, step_fleet
from shared.messages import RecordedStep
from shared.policies.runtime import RulePolicy
from shared.settings import FleetSettings
from tests.conftest import NOW

SETTINGS = FleetSettings(min_servers=0, observation="notebook")


def row(step=1, demand=50.0, usable=True, allocation=52.0, up=None, floor=0.0):
    return RecordedStep(step, 65.0 * step, demand, usable, 0, 60.0, allocation, up, floor)


def test_nothing_is_known_before_the_first_step_nor_of_steps_of_before():
    assert live_costs([], SETTINGS) is None
    assert live_costs([RecordedStep(1, 65.0, 50.0, True, 0)], SETTINGS) is None
    assert live_costs([row(step) for step in range(1, 11)], SETTINGS) is None, "no rule's yet"


def test_beside_what_ran_where_that_is_reported():
    steps = [row(1, up=40), row(2, up=55), row(3, up=None), row(4, usable=False, up=0)]
    costs = live_costs(steps, SETTINGS)
    assert (costs.decided, costs.instead) == (2, pytest.approx((5 * 10 + 5) / 2))
    assert (costs.compared_with, costs.steps) == ("ran", 2)


def test_demand_counts_as_far_as_the_limits_go():
    costs = live_costs([row(1, demand=500.0, allocation=100.0, up=90)], SETTINGS)
    assert (costs.decided, costs.instead) == (0, 50)


# With the notebook's reward no margin is learnt: the live rule is the plain one.
PLAIN = {"observation": "notebook", "reward": "notebook", "floor_at_allocated": True}


def by_the_rule(settings: FleetSettings, silent: range = range(0)) -> list[RecordedStep]:
    """Steps of a fleet that the rule has really decided for."""
    record, steps = None, []
    for number in range(60):
        at: datetime = NOW + number * timedelta(seconds=65)
        demand = None if number in silent else 40 + 3.0 * (number % 11)
        commit = step_fleet(
            StepInput(
                "default",
                record,
                RulePolicy(settings.parameters),
                settings.parameters,
                next_due(None if record is None else record.due_at, 65, 0, at),
                at,
                demand,
                guards=settings.guards,
                tickets_waiting=70 if number % 20 == 19 else 0,
            )
        )
        record = commit.record
        steps.append(commit.recorded)
    return steps


@pytest.mark.parametrize(
    "guards",
    [{}, {"max_step_up": 3, "max_step_down": 2}, {"scale_down_delay": 4, "max_step_up": 9}],
)
def test_the_rule_costs_itself_through_the_same_guards(guards):
    settings = FleetSettings(**PLAIN, **guards)
    steps = by_the_rule(settings)
    costs = live_costs(steps[10:], settings)
    assert costs.compared_with == "rule"
    assert costs.steps == 50 - 10
    # Limited moves take a while to forget how the window begins.
    assert costs.instead == pytest.approx(costs.decided, rel=0.03 if guards else 1e-4)
    assert costs.decided > 1


def test_held_demand_is_no_one_s_cost():
    settings = FleetSettings(**PLAIN)
    steps = by_the_rule(settings, silent=range(30, 33))
    costs = live_costs(steps, settings)
    assert costs.steps == 60 - 10 - 3
    assert costs.instead == pytest.approx(costs.decided, abs=0.01)
