"""`GET /explain`: the newest decision with what made it, and the same in the worker's log."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
import structlog

from services.environment.demand_source import Reading
from services.environment.fleet_loop import FleetLoop
from services.environment.step import Due, StepInput, step_fleet
from services.prediction.app import create_app
from shared.bus import Bus, TrainingQueue
from shared.core.fields import notebook_fields
from shared.explanation import (
    LEAST_ERRORS,
    NEWEST_ERRORS,
    errors_of,
    explained,
    steps_to_explain,
)
from shared.messages import RecordedStep, Supply
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import NOW
from tests.eventually import eventually_async
from tests.policies import Everyone, OneByOne, TenMore

# With the notebook's reward nothing is learnt while it serves: the asks are the policy's own.
SETTINGS = FleetSettings(
    observation="notebook", reward="notebook", max_step_up=4, floor_at_allocated=True
)
FLEETS = Fleets(
    {"default": SETTINGS, "new": SETTINGS.model_copy(update={"shadow": True})},
)
STEPS = 30


class Series:
    """A matchmaker that reports these demands, step by step."""

    def __init__(self, *demands: float) -> None:
        self._demands = demands

    async def read(self, step: int) -> Reading:
        return Reading(self._demands[step - 1], Supply(allocated=20, ready=30))


def stepper_of(bus: Bus, fleet: str, *demands: float) -> FleetLoop:
    queue: Any = TrainingQueue("redis://127.0.0.1:1/0")
    champions: Any = Everyone(TenMore())
    series = Series(*demands)
    return FleetLoop(fleet, FLEETS[fleet], 0.0, series, champions, bus, queue, clock=lambda: NOW)


async def step(loop: FleetLoop, count: int) -> None:
    for number in range(count):
        await loop._step(Due(NOW + (number - count) * timedelta(seconds=65), 0))


@pytest.fixture
async def client(redis_url, tmp_path, client_of) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        bus=Bus.connect(redis_url),
        fleets=FLEETS,
        store=PolicyStore.at(tmp_path),
        clock=lambda: NOW,
    )
    async with client_of(app) as client:
        yield client


@pytest.mark.parametrize("fleet", ["default", "new"])
async def test_why_a_decision_is_what_it_is(bus, client, fleet):
    demands = [*([40.0] * (STEPS - 1)), 70.0]
    await step(stepper_of(bus, fleet, *demands), STEPS)
    answer = await client.get("/explain", params={"fleet": fleet})
    assert answer.status_code == 200, answer.text
    why = answer.json()
    assert (why["fleet"], why["step"], why["policy_version"]) == (fleet, STEPS + 1, "v1")
    assert why["observation"]["demand[-1]"] == 70
    assert why["observation"]["target[-1]"] == 50
    assert list(why["observation"]) == list(notebook_fields(5))
    assert (why["action"], why["ask"], why["reported_demand"]) == (0.8, 80, 70)
    assert (why["told_before"], why["allocated_floor"], why["scheduled_floor"]) == (50, 20, 0)
    moved = [(guard["guard"], guard["before"], guard["after"]) for guard in why["guards"]]
    assert moved == [
        ("min_servers", 80, 80),
        ("max_servers", 80, 80),
        ("below_demand", 80, 80),
        ("max_step_up", 80, 54),
        ("allocated_floor", 54, 54),
        ("min_servers", 54, 54),
        ("max_servers", 54, 54),
    ]
    assert why["target"] == 54
    rule = why["rule"]
    assert rule["version"] == "rule:trend"
    assert rule["ask"] > 70, "the trend goes up"
    assert (rule["target"], rule["guards"][0]) == (54, "max_step_up")
    # Each ask was met by 40, ten less than it, and the newest by 70: 20 more.
    expected = why["expected"]
    count = STEPS - 6
    assert (expected["sample"], expected["steps_ahead"]) == (count, 6)
    assert str(count) in expected["source"]
    assert expected["under"] == pytest.approx(((count - 1) * 16 + 46) / count)
    assert expected["over"] == 0
    shadow = fleet == "new"
    assert why["shadow"] is shadow
    assert ("in shadow" in (why["reason"] or "")) is shadow

    async def told() -> Any:
        return (await client.get("/explain", params={"fleet": fleet})).json()["told"]

    answer = await eventually_async(told, "the decision is told")
    assert answer["Prediction"]["num_of_gameservers"] == 54
    assert answer["shadow"] is shadow


async def test_before_the_first_decision_and_of_no_fleet(client):
    answer = await client.get("/explain")
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert "there is no decision for fleet 'default' yet" in answer.json()["detail"]
    assert (await client.get("/explain?fleet=asia")).status_code == 404


async def test_the_log_says_the_same_where_a_guard_begins_to_settle_the_number(bus, client):
    demands = [*([40.0] * 12), 90.0]
    loop = stepper_of(bus, "default", *demands, 90.0, 90.0)
    with structlog.testing.capture_logs() as logs:
        await step(loop, len(demands))
    why = (await client.get("/explain")).json()
    with structlog.testing.capture_logs() as later:
        await step(loop, 2)
    (news,) = (log for log in logs if is_news(log))
    assert news["step"] == why["step"] == 14, "where max_step_up begins to hold it"
    assert {"observation", "guards", "rule", "policy_version"} <= set(news)
    assert set(why) - set(news) == {"expected", "shadow", "told", "reason"}
    assert {name: why[name] for name in news if name in why} == {
        name: value for name, value in news.items() if name not in ("event", "log_level")
    }
    assert not any(map(is_news, later)), "it goes on to hold it"


def is_news(log: dict[str, Any]) -> bool:
    """Whether it is logged where debug is not."""
    return log["event"] == "decision_explained" and log["log_level"] == "info"


class TwoExperts(OneByOne):
    """The last demand, and twenty more; at first the former counts for more."""

    experts: ClassVar = {"one": 0.75, "other": 0.25}

    def answers(self, observation):
        return (observation[4] / 100, (observation[4] + 20) / 100)


def test_what_each_expert_answered_and_the_margin_make_the_ask():
    """Demand rises by three a step: who asks for more does better, and it is missed too often."""
    settings = FleetSettings(observation="notebook")
    record, found = None, []
    for number in range(20):
        at = NOW + number * timedelta(seconds=65)
        demand = 20 + 3.0 * number if number != 18 else None
        due, parameters = Due(at, 0), settings.parameters
        commit = step_fleet(StepInput("default", record, TwoExperts(), parameters, due, at, demand))
        record = commit.record
        found.append(explained(commit.explanation, [], settings))
    for why in (found[0], found[17]):
        average = sum(expert.weight * expert.ask for expert in why.experts)
        assert why.ask == pytest.approx(average + why.margin)
    assert [expert.weight for expert in found[0].experts] == [0.75, 0.25]
    assert found[0].margin == 0
    assert found[17].experts[1].ask == 20 + 3 * 17 + 20
    assert found[17].experts[1].weight > 0.25
    assert found[17].margin > 0
    assert (found[18].experts, found[18].margin, found[18].fallback) == ([], 0, "stale_demand")
    assert found[18].ask == found[17].target


def rows(*changes: dict[str, Any]) -> list[RecordedStep]:
    made = [RecordedStep(n, 65.0 * n, 50.0, True, 0, 40.0, 40.0) for n in range(1, 21)]
    for change in changes:
        at = change.pop("step") - 1
        made[at] = made[at]._replace(**change)
    return made


@pytest.mark.parametrize(
    ("what", "changed", "count"),
    [
        ("nothing", [], 14),
        ("a held demand is neither seen nor met", [{"step": 10, "usable": False}], 12),
        ("no gap is between", [{"step": 10, "gap_steps": 2}], 8),
        ("a step of before there were asks", [{"step": 2, "ask": None}], 13),
    ],
)
def test_which_asks_have_met_their_demand(what, changed, count):
    found = errors_of(rows(*changed), SETTINGS.parameters)
    assert found.tolist() == [10.0] * count, what


def test_an_ask_beyond_the_limits_is_taken_for_the_limit():
    found = errors_of(rows({"step": 2, "ask": 130.0}, {"step": 3, "ask": 1.0}), SETTINGS.parameters)
    assert found[:3].tolist() == [-50.0, 40.0, 10.0]


def test_the_steps_to_explain_suffice_for_the_misses():
    count = steps_to_explain(SETTINGS.parameters)
    made = [RecordedStep(n, 65.0 * n, 50.0, True, 0, 40.0, 40.0) for n in range(1, count + 1)]
    assert len(errors_of(made, SETTINGS.parameters)) == NEWEST_ERRORS
    assert LEAST_ERRORS < NEWEST_ERRORS
    assert np.isfinite(errors_of(made, SETTINGS.parameters)).all()
