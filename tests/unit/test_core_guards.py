"""What the guards make of an ask, one by one and where they contradict each other."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.guards import NO_GUARDS, Guards, guarded, guarded_series
from shared.core.parameters import FleetParameters

LIMITS = FleetParameters(min_servers=10, max_servers=100)


@dataclass(frozen=True)
class Case:
    why: str
    ask: float
    target: float
    guards: tuple[str, ...] = ()
    """Named, the one that settled it first."""
    demand: float = 0.0
    floor: float = 0.0
    scheduled: float = 0.0
    told: float | None = None
    asks: tuple[float, ...] = ()
    set_to: dict[str, Any] = field(default_factory=dict)


UP = {"max_step_up": 5}
DOWN = {"max_step_down": 5}
DELAY = {"scale_down_delay": 3}
FLOOR = {"floor_at_allocated": True}

CASES = [
    Case("nothing set", 50, 50, told=90, demand=80),
    Case("an ask below the limits", 3, 10, ("min_servers",)),
    Case("an ask above the limits", 103, 100, ("max_servers",)),
    Case("an ask without end", float("inf"), 100, ("max_servers",)),
    Case("float32 noise above the limits binds nothing", 100.0000002, 100),
    Case("a step up within the limit", 55, 55, told=50, set_to=UP),
    Case("a step up beyond it", 56, 55, ("max_step_up",), told=50, set_to=UP),
    Case("down is not up", 20, 20, told=50, set_to=UP),
    Case("a step down within the limit", 45, 45, told=50, set_to=DOWN),
    Case("a step down beyond it", 44, 45, ("max_step_down",), told=50, set_to=DOWN),
    Case("up is not down", 90, 90, told=50, set_to=DOWN),
    Case("nothing was told before", 90, 90, set_to=UP | DOWN | DELAY),
    Case("less is asked for the first time", 30, 50, ("scale_down_delay",), told=50, set_to=DELAY),
    Case(
        "the highest ask that is remembered",
        30,
        40,
        ("scale_down_delay",),
        told=50,
        asks=(35, 40, 32),
        set_to=DELAY,
    ),
    Case("less was asked for long enough", 30, 30, told=50, asks=(30, 28, 25), set_to=DELAY),
    Case("what is older than the delay", 30, 30, told=50, asks=(50, 30, 30, 30), set_to=DELAY),
    Case(
        "an old ask brings no servers",
        40,
        50,
        ("scale_down_delay",),
        told=50,
        asks=(90, 40),
        set_to=DELAY,
    ),
    Case("more is asked", 60, 60, told=50, asks=(50, 50, 50), set_to=DELAY),
    Case(
        "the delay over, the step down is limited",
        30,
        45,
        ("max_step_down",),
        told=50,
        asks=(30, 30, 30),
        set_to=DELAY | DOWN,
    ),
    Case("demand is prediction's where moves are free", 50, 50, demand=60, told=50),
    Case(
        "demand is met where moves are held",
        50,
        52,
        ("below_demand",),
        demand=52,
        told=50,
        set_to=UP,
    ),
    Case(
        "no faster for the demand",
        50,
        55,
        ("max_step_up", "below_demand"),
        demand=80,
        told=50,
        set_to=UP,
    ),
    Case(
        "demand beyond the limits",
        50,
        100,
        ("below_demand",),
        demand=400,
        told=99,
        set_to=UP,
    ),
    Case("the floor", 20, 60, ("allocated_floor",), floor=60, set_to=FLOOR),
    Case("an ask above the floor", 70, 70, floor=60, set_to=FLOOR),
    Case(
        "the floor beats the step up",
        90,
        80,
        ("allocated_floor", "max_step_up"),
        floor=80,
        told=50,
        set_to=UP | FLOOR,
    ),
    Case(
        "after a floor, down by steps",
        40,
        75,
        ("max_step_down",),
        floor=50,
        told=80,
        set_to=DOWN | FLOOR,
    ),
    Case(
        "the maximum beats the floor",
        20,
        100,
        ("max_servers", "allocated_floor"),
        floor=150,
        set_to=FLOOR,
    ),
    Case("a known event", 20, 60, ("scheduled_floor",), scheduled=60),
    Case("an ask above what the event needs", 70, 70, scheduled=60),
    Case("an event beyond the maximum", 20, 100, ("scheduled_floor",), scheduled=120),
    Case(
        "no faster for an event",
        20,
        55,
        ("max_step_up", "scheduled_floor"),
        scheduled=60,
        told=50,
        set_to=UP,
    ),
    Case(
        "the delay does not outlast an event",
        20,
        30,
        ("scale_down_delay",),
        told=60,
        asks=(30, 20),
        set_to=DELAY,
    ),
    Case(
        "servers in use beat the event and the steps",
        20,
        80,
        ("allocated_floor", "max_step_up", "scheduled_floor"),
        scheduled=60,
        floor=80,
        told=50,
        set_to=UP | FLOOR,
    ),
    Case(
        "a raised minimum beats the step up",
        30,
        10,
        ("min_servers", "max_step_up"),
        told=2,
        set_to=UP,
    ),
    Case(
        "a lowered maximum beats the step down",
        30,
        100,
        ("max_servers", "max_step_down"),
        told=150,
        set_to=DOWN,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_cases(case):
    told = guarded(
        case.ask,
        case.demand,
        Guards(**case.set_to),
        LIMITS,
        floor=case.floor,
        scheduled=case.scheduled,
        previous=case.told,
        requests=case.asks,
    )
    assert (told.target, told.guards) == (case.target, case.guards)


def test_every_guard_in_force_is_traced_in_its_order():
    told = guarded(
        120,
        30,
        Guards(max_step_up=5, scale_down_delay=3),
        LIMITS,
        scheduled=60,
        floor=40,
        previous=50,
    )
    assert told.effects == (
        ("min_servers", 120, 120),
        ("max_servers", 120, 100),
        ("below_demand", 100, 100),
        ("scale_down_delay", 100, 100),
        ("scheduled_floor", 100, 100),
        ("max_step_up", 100, 55),
        ("allocated_floor", 55, 55),
        ("min_servers", 55, 55),
        ("max_servers", 55, 55),
    )
    assert told.guards == ("max_step_up", "max_servers")


@given(
    st.lists(
        st.tuples(st.floats(-50, 200), st.floats(0, 300), st.floats(0, 120), st.floats(0, 90)),
        min_size=1,
        max_size=30,
    ),
    st.builds(
        Guards,
        max_step_up=st.integers(0, 9),
        max_step_down=st.integers(0, 9),
        scale_down_delay=st.integers(0, 4),
    ),
)
def test_the_trace_leads_from_the_ask_to_the_target_and_a_series_is_step_by_step(steps, guards):
    told, asks, targets = None, (), []
    for ask, demand, floor, scheduled in steps:
        step = guarded(
            ask,
            demand,
            guards,
            LIMITS,
            floor=floor,
            scheduled=scheduled,
            previous=told,
            requests=asks,
        )
        numbers = [ask, *(move.after for move in step.effects)]
        assert [move.before for move in step.effects] == numbers[:-1]
        assert numbers[-1] == step.target
        told, asks = step.target, step.requests
        targets.append(told)
    wanted, demands, floors, scheduled = (list(column) for column in zip(*steps, strict=True))
    series = guarded_series(
        np.array(wanted), np.array(demands), guards, LIMITS, floors=floors, scheduled=scheduled
    )
    if guards != NO_GUARDS:
        assert series.tolist() == targets


@given(st.floats(-1e9, 1e9), st.floats(0, 1e6), st.floats(10, 100))
def test_with_nothing_set_an_ask_is_only_brought_within_the_limits(ask, demand, before):
    told = guarded(ask, demand, NO_GUARDS, LIMITS, previous=before)
    assert (told.target, told.requests) == (min(max(ask, 10), 100), ())


def test_less_is_told_after_exactly_the_delay():
    guards, asks, told, targets = Guards(scale_down_delay=3), (), None, []
    for ask in (50, 40, 40, 60, 30, 35, 30, 30, 30):
        step = guarded(ask, 0, guards, LIMITS, previous=told, requests=asks)
        told, asks = step.target, step.requests
        targets.append(told)
    assert targets == [50, 50, 50, 60, 60, 60, 60, 35, 35]


@pytest.mark.parametrize(
    ("set_to", "allocated", "tickets", "floor"),
    [
        ({}, 40, 8, 0),
        (FLOOR, 40, 8, 48),
        (FLOOR, 40, None, 40),
        (FLOOR, None, 8, 8),
        (FLOOR, None, None, 0),
        (FLOOR | {"servers_per_ticket": 0.25}, 40, 8, 42),
        (FLOOR | {"servers_per_ticket": 0}, 40, 8, 40),
    ],
)
def test_the_floor_is_allocated_and_waiting_as_far_as_they_are_known(
    set_to, allocated, tickets, floor
):
    assert Guards(**set_to).floor(allocated, tickets) == floor
