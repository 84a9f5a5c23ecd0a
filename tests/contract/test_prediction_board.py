"""What prediction tells, as a function of what it knows and the time."""

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.prediction.fleet_states import FleetStates
from shared.errors import DemandMissing, UnknownFleet
from shared.messages import Champion, Decision, Demand
from shared.settings import Fleets, FleetSettings
from tests.conftest import NOW, a_decision

SETTINGS = FleetSettings(demand_ttl=60, decision_ttl=100)
OBSERVATION = (50.0, 51, 52, 53, 54, 60, 61, 62, 63, 64)


def decision(age_s: float = 1.3, **changes: Any) -> Decision:
    decided_at = NOW - timedelta(seconds=age_s)
    return a_decision(**{"observation": OBSERVATION, "decided_at": decided_at, **changes})


def demand(servers: float, age_s: float = 0.0, fleet: str = "default") -> Demand:
    observed_at = NOW - timedelta(seconds=age_s)
    return Demand(fleet=fleet, demand=servers, observed_at=observed_at)


def board_of(*heard: Any, settings: FleetSettings = SETTINGS) -> FleetStates:
    states = FleetStates(Fleets({"default": settings}))
    for message in heard:
        states.update(message)
    return states


def told(states: FleetStates, now: datetime = NOW) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(states.encoded("default", now))
    return answer


def test_a_decision_is_told_in_the_shape_of_interfaces_md():
    assert told(board_of(decision())) == {
        "Prediction": {
            "num_of_gameservers": 84,
            "curr_demand": 79.5,
            "action": 0.832,
            "new_alloc": 84,
            "is_false_positive": 0,
            "observations": list(OBSERVATION),
        },
        "fleet": "default",
        "allocation": 80.0,
        "policy_version": "v1",
        "decided_at": "2026-11-22T20:32:59.700000Z",
        "age_s": 1.3,
        "guard": None,
        "guards": [],
        "fallback": None,
        "shadow": False,
    }


@dataclass(frozen=True)
class Case:
    why: str
    heard: tuple[Any, ...]
    servers: int | None
    """None: there is nothing to say."""
    fallback: str | None = None
    guard: str | None = None
    version: str = "v1"
    curr_demand: float = 79.5


CASES = [
    Case("nothing known", (), None),
    Case("only a stale demand", (demand(50, 60.1),), None),
    Case("only a stale decision", (decision(100.1),), None),
    Case("both stale", (decision(100.1), demand(50, 60.1)), None),
    Case("fresh until its last moment", (decision(100),), 84),
    Case(
        "a stale decision, fresh demand",
        (decision(100.1), demand(50, 60)),
        63,
        "stale_decision",
        version="rule:headroom",
        curr_demand=50,
    ),
    Case(
        "no decision, fresh demand",
        (demand(50),),
        63,
        "stale_decision",
        version="rule:headroom",
        curr_demand=50,
    ),
    Case(
        "the rule keeps to the maximum",
        (demand(90),),
        100,
        "stale_decision",
        version="rule:headroom",
        curr_demand=90,
    ),
    Case(
        "the rule keeps to the minimum",
        (demand(0),),
        10,
        "stale_decision",
        version="rule:headroom",
        curr_demand=0,
    ),
    Case("the worker had no policy", (decision(fallback="no_policy"),), 84, "no_policy"),
    Case("the worker had no demand", (decision(fallback="stale_demand"),), 84, "stale_demand"),
    Case("a newer demand below it", (decision(), demand(70)), 84, curr_demand=70),
    Case(
        "a newer demand above it",
        (decision(), demand(90.2)),
        91,
        guard="below_demand",
        curr_demand=90.2,
    ),
    Case("a stale demand doesn't count", (decision(), demand(95, 61)), 84),
    Case("its own demand is above it", (decision(target=70.0),), 80, guard="below_demand"),
    Case(
        "raised, and still within the maximum",
        (decision(), demand(500)),
        100,
        guard="below_demand",
        curr_demand=500,
    ),
    Case(
        "at the maximum nothing can be raised",
        (decision(target=100), demand(500)),
        100,
        curr_demand=500,
    ),
    Case("a whole target stays", (decision(target=84),), 84),
    Case("float32 noise is no server", (decision(target=85.00000238),), 85),
    Case("a hundredth is", (decision(target=85.01),), 86),
    Case("a target under the limits", (decision(target=3, curr_demand=0),), 10, curr_demand=0),
    Case("a target over the limits", (decision(target=5000),), 100),
    Case(
        "the newest demand counts, not the last heard",
        (decision(), demand(92, 1), demand(70, 5)),
        92,
        guard="below_demand",
        curr_demand=92,
    ),
    Case("the last decision counts", (decision(), decision(target=90)), 90),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_cases(case):
    states = board_of(*case.heard)
    if case.servers is None:
        with pytest.raises(DemandMissing, match="use your own fallback"):
            states.encoded("default", NOW)
        return
    answer = told(states)
    prediction = answer["Prediction"]
    assert prediction["num_of_gameservers"] == prediction["new_alloc"] == case.servers
    assert prediction["curr_demand"] == case.curr_demand
    assert answer["fallback"] == case.fallback
    assert answer["guard"] == case.guard
    assert prediction["is_false_positive"] == (case.guard is not None)
    if case.version == "rule:headroom":
        assert answer["policy_version"] == case.version
        assert answer["allocation"] is None
        assert prediction["observations"] == []


def test_the_last_decision_brings_its_policy():
    states = board_of(decision(), decision(policy_version="v2"))
    assert told(states)["policy_version"] == "v2"


def test_what_was_told_changes_with_what_is_heard_and_with_time():
    """The answer is kept encoded; every way it can grow old has to be noticed."""
    states = board_of(decision())
    assert told(states)["Prediction"]["num_of_gameservers"] == 84
    states.update(demand(95))
    assert told(states)["Prediction"]["num_of_gameservers"] == 95
    assert told(states, NOW + timedelta(seconds=60))["Prediction"]["num_of_gameservers"] == 95
    # The demand is stale now, and the decision isn't.
    later = told(states, NOW + timedelta(seconds=61))
    assert later["Prediction"]["num_of_gameservers"] == 84
    assert later["age_s"] == pytest.approx(62.3)
    with pytest.raises(DemandMissing, match="100 s old and valid for 100 s"):
        states.encoded("default", NOW + timedelta(seconds=98.8))
    states.update(decision(age_s=-90))
    assert told(states, NOW + timedelta(seconds=99))["fallback"] is None


def test_when_a_decision_grows_stale_the_rule_takes_over():
    states = board_of(decision(age_s=99), demand(50))
    assert told(states)["fallback"] is None
    later = told(states, NOW + timedelta(seconds=2))
    assert later["fallback"] == "stale_decision"
    assert later["decided_at"] == "2026-11-22T20:33:01Z"
    assert later["age_s"] == 2


def test_age_is_of_the_request_and_never_negative():
    states = board_of(decision())
    assert [told(states, NOW + timedelta(seconds=s))["age_s"] for s in (0, 1, 2.5)] == [
        1.3,
        2.3,
        3.8,
    ]
    assert told(states, NOW - timedelta(seconds=5))["age_s"] == 0


@pytest.mark.parametrize("servers", [0.001, 0.25, 10, 79.999, 1e6])
def test_any_demand_makes_a_number_within_the_limits(servers):
    settings = FleetSettings(min_servers=0, max_servers=1000)
    answer = told(board_of(demand(servers), settings=settings))
    expected = min(math.ceil(round(servers * 1.25, 3)), 1000)
    assert answer["Prediction"]["num_of_gameservers"] == expected


def test_messages_of_unknown_fleets_are_ignored():
    states = board_of(
        demand(50, fleet="elsewhere"), Champion(fleet="default", version="v", since=NOW)
    )
    with pytest.raises(DemandMissing):
        states.encoded("default", NOW)
    with pytest.raises(UnknownFleet, match="use one of default"):
        states.encoded("elsewhere", NOW)
