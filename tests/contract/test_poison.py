"""A number that nobody can hold: refused at the door, and harmless where it stands already.

A release without bounds took a count of 10**400 in a report, and stored it: what stands in Redis
since then is put there as that release wrote it.
"""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry

from services.matchmaking.app import create_app as matchmaking
from services.metrics.app import create_app as metrics
from services.metrics.fleet_metrics import FleetMetrics
from services.metrics.workload import Workload
from services.prediction.app import create_app as prediction
from services.prediction.fleet_states import FleetStates
from services.prediction.follower import following
from services.prediction.supply_recorder import Supplies
from shared.bus import CHAMPIONS, DECISIONS, Bus
from shared.messages import Champion, Demand, utc_now
from shared.policies.champions import Champions
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import a_decision, a_step, poisoned
from tests.eventually import eventually_async

FLEETS = Fleets({name: FleetSettings(floor_at_allocated=True) for name in ("default", "eu", "us")})


async def poison(bus: Bus, raw: Any) -> None:
    """Three fleets that have stepped, and in all that `default` has told a count of 10**400.

    `us` has a decision besides that reaches beyond the end of all time.
    """
    now = utc_now()
    for fleet in FLEETS.names:
        for number in (1, 2, 3):
            made = a_step(number, fleet, at=now + timedelta(seconds=number - 3))
            row = made.recorded._replace(ask=50.0, allocation=50.0, up=50)
            await bus.commit_step(*made._replace(recorded=row))
            if fleet == "default":
                spoilt = json.dumps([*row[:7], 10**400, 0.0])
                raw.lset("autopilot:recorded:default", number - 1, spoilt)
                transition = {"fleet": fleet, "message": poisoned(made.transition)}
                raw.xadd("autopilot:transitions", transition)
    demand = poisoned(Demand(fleet="default", demand=50, observed_at=now))
    raw.hset("autopilot:demand:newest", "default", demand)
    raw.xadd("autopilot:demand", {"fleet": "default", "message": demand})
    late = a_decision(fleet="us").model_dump_json()
    late = late.replace("2026-11-22T20:33:01Z", "9999-12-31T23:59:59Z")
    raw.hset("autopilot:decisions", "us", late)
    raw.xadd("autopilot:decisions:changes", {"fleet": "us", "message": late})


async def until(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    return await eventually_async(
        lambda: client.get(path),
        f"{path} answers {status}",
        holds=lambda answer: answer.status_code == status,
    )


def prediction_app(redis_url: str, folder: Any) -> Any:
    store = PolicyStore.at(folder)
    return prediction(bus=Bus.connect(redis_url), fleets=FLEETS, store=store, clock=utc_now)


@pytest.mark.parametrize("count", ["allocated", "ready", "reserved", "starting"])
async def test_the_report_is_refused_and_harms_nobody(
    redis_url, bus, raw, tmp_path, client_of, count
):
    """The attack itself, end to end."""
    for fleet in FLEETS.names:
        await bus.commit_step(*a_step(1, fleet, at=utc_now()))
    report = {"num_of_gameservers": 50, "supply": {"allocated": 1, count: 10**400}}
    door = matchmaking(bus=Bus.connect(redis_url), fleets=FLEETS, clock=utc_now)
    async with client_of(prediction_app(redis_url, tmp_path)) as client:
        async with client_of(door) as matchmaker:
            refused = await matchmaker.post("/demand", json=report)
            assert refused.status_code == 422, refused.text
            detail = f"supply.{count}: Input should be less than or equal to 1000000"
            assert refused.json()["detail"] == detail
            assert raw.exists("autopilot:demand", "autopilot:demand:newest") == 0
            good = await matchmaker.post("/demand", json={"num_of_gameservers": 55})
            assert good.status_code == 202
        for fleet in FLEETS.names:
            await until(client, f"/prediction?fleet={fleet}", 200)
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/predictions")).json()["reasons"] == {}


async def test_prediction_answers_for_the_other_fleets(redis_url, bus, raw, tmp_path, client_of):
    await poison(bus, raw)
    with structlog.testing.capture_logs() as logs:
        async with client_of(prediction_app(redis_url, tmp_path)) as client:
            answer = await until(client, "/prediction?fleet=eu", 200)
            assert answer.json()["Prediction"]["num_of_gameservers"] == 50
            # Its decision can be told; its demand is as none.
            assert (await until(client, "/prediction", 200)).json()["fleet"] == "default"
            for _ in range(3):
                assert (await client.get("/readyz")).status_code == 200
                everybody = (await client.get("/predictions")).json()
                assert set(everybody["predictions"]) == set(FLEETS.names)
                assert everybody["predictions"]["us"] is None
                assert everybody["predictions"]["eu"]["fleet"] == "eu"
                why = everybody["reasons"]["us"]
                assert "the service failed on fleet 'us' (OverflowError)" in why
            # A report that can be read replaces the one that can't.
            now = utc_now()
            await bus.record_demands([Demand(fleet="default", demand=61, observed_at=now)], [None])

            async def known() -> float:
                return (await client.get("/prediction")).json()["Prediction"]["curr_demand"]

            await eventually_async(known, "the new demand is known", holds=lambda it: it == 61)
    failed = [log for log in logs if log["event"] == "fleet_has_no_answer"]
    assert [log["fleet"] for log in failed] == ["us"], "once, however often it is asked"


async def test_matchmaking_knows_no_such_demand_and_takes_the_next(redis_url, bus, raw, client_of):
    await poison(bus, raw)
    app = matchmaking(bus=Bus.connect(redis_url), fleets=FLEETS, clock=utc_now)
    async with client_of(app) as client:
        unknown = await client.get("/demand")
        assert unknown.status_code == 503
        assert "no demand is known" in unknown.json()["detail"]
        assert (await client.post("/demand", json={"num_of_gameservers": 7})).status_code == 202
        answer = await client.get("/demand")
        assert answer.json()["Prediction"] == {"num_of_gameservers": 7.0}


async def test_the_sidecar_sets_it_aside_and_counts_the_others(redis_url, bus, raw, client_of):
    await poison(bus, raw)
    registry, put = CollectorRegistry(), []

    async def put_to_cloudwatch(messages: Any) -> None:
        put.extend(float(message.allocation) for message in messages)

    app = metrics(
        bus=Bus.connect(redis_url),
        registry=registry,
        fleet_metrics=FleetMetrics(registry, FLEETS, utc_now()),
        workload=Workload(registry, len(FLEETS.names)),
        put_to_cloudwatch=put_to_cloudwatch,
    )

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"autopilot_{name}", labels)

    groups = ("metrics-prometheus", "metrics-cloudwatch")
    with structlog.testing.capture_logs() as logs:
        async with client_of(app):
            await eventually_async(
                lambda: [sample("dead_letters_total", group=group) for group in groups],
                "three dead letters of each group",
                holds=lambda counts: counts == [3, 3],
            )
            await eventually_async(
                lambda: [sample("steps_total", fleet=fleet) for fleet in FLEETS.names],
                "every fleet's three steps are counted",
                holds=lambda counts: counts == [3, 3, 3],
            )
            await bus.commit_step(*a_step(4, "eu", at=utc_now()))
            await eventually_async(
                lambda: (sample("steps_total", fleet="eu"), len(put)),
                "the next step is counted and put",
                holds=lambda counts: counts == (4, 10),
            )
    for group in groups:
        assert sample("unreadable_transitions_total", group=group) == 3
    letters = await bus.dead_letters(10)
    assert sorted(letter.group for letter in letters) == sorted(groups * 3)
    for letter in letters:
        assert letter.reason == "supply: allocated: Input should be less than or equal to 1000000"
        assert json.loads(letter.content)["supply"]["allocated"] == 10**400
    assert [log for log in logs if "exc_info" in log] == []


@pytest.fixture
def run(redis_url, tmp_path, autopilot):
    tables = "".join(f"[{name}]\nfloor_at_allocated = true\n" for name in FLEETS.names)
    (tmp_path / "fleets.toml").write_text(tables)

    variables = {
        "AUTOPILOT_REDIS_URL": redis_url,
        "AUTOPILOT_FLEETS": str(tmp_path / "fleets.toml"),
        "COLUMNS": "80",
    }
    return lambda *words: autopilot("fleets", "list", *words, **variables)


async def test_the_list_shows_every_fleet(bus, raw, run):
    await poison(bus, raw)
    done = await asyncio.to_thread(run, "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    default, eu, us = json.loads(done.stdout)["fleets"]
    assert (eu["num_of_gameservers"], eu["live_costs"]["steps"]) == (50, 3)
    assert (default["num_of_gameservers"], default["live_costs"]) == (50, None)
    assert "the service failed on fleet 'us'" in us["reason"]
    raw.set("autopilot:recorded:us", "no list")
    table = await asyncio.to_thread(run)
    assert table.returncode == 0, table.stderr
    assert all(name in table.stdout for name in FLEETS.names)


async def test_one_message_that_raises_does_not_begin_the_following_of_all_again(
    redis_url, bus, tmp_path
):
    class Followed(Bus):
        times = 0

        def follow(self, *feeds: Any) -> Any:
            Followed.times += 1
            return super().follow(*feeds)

    class Unforeseen(Champions):
        async def apply(self, champion: Champion) -> bool:
            if champion.fleet == "us":
                raise OverflowError("nobody has foreseen this")
            return await super().apply(champion)

    states, followed = FleetStates(FLEETS), Followed.connect(redis_url)
    champions = Unforeseen(PolicyStore.at(tmp_path), FLEETS)
    supplies = Supplies(bus, CollectorRegistry())
    with structlog.testing.capture_logs() as logs:
        async with following(followed, states, champions, supplies):
            for fleet in ("us", "eu"):
                champion = Champion(fleet=fleet, version="v1", since=utc_now())
                await bus.publish(CHAMPIONS, fleet, champion)
            await bus.publish(DECISIONS, "eu", a_decision(fleet="eu", decided_at=utc_now()))
            await eventually_async(
                lambda: [log.get("kind") for log in logs],
                "the champion that raises is told",
                holds=lambda kinds: "Champion" in kinds,
            )
            await eventually_async(
                lambda: states.all_encoded(utc_now())[0],
                "the decision is known",
                holds=lambda answers: "eu" in answers,
            )
    await followed.close()
    assert Followed.times == 1
    assert not any(log["event"] == "task_failed" for log in logs)


async def test_a_long_name_comes_back_cut_and_is_not_logged(redis_url, tmp_path, client_of):
    name = "x" * 60_000
    with structlog.testing.capture_logs() as logs:
        async with client_of(prediction_app(redis_url, tmp_path)) as client:
            answers = [
                await client.get("/prediction", params={"fleet": name}),
                await client.get("/prediction", params={"shadow": name}),
                await client.get(f"/predict/{name}"),
                await client.get(f"/{name}"),
                await client.post("/agones/scale", json={}, params={"fleet": name}),
                await client.post("/invocations", headers={"Content-Type": name}),
            ]
        door = matchmaking(bus=Bus.connect(redis_url), fleets=FLEETS, clock=utc_now)
        async with client_of(door) as client:
            answers += [
                await client.post("/demand", json={"num_of_gameservers": 1, name[:9_000]: 1}),
                await client.post("/demand", json={"num_of_gameservers": 1, "fleet": name[:9_000]}),
            ]
    assert [answer.status_code for answer in answers] == [422, 422, 404, 404, 422, 415, 422, 422]
    assert max(len(answer.content) for answer in answers) < 2_500
    assert len(str(logs)) < 10_000


async def test_the_other_fleets_go_on_in_metrics_too(redis_url, bus, client_of):
    class Unforeseen(FleetMetrics):
        def record_decision(self, decision: Any) -> None:
            if decision.fleet == "us":
                raise OverflowError("nobody has foreseen this")
            super().record_decision(decision)

    registry = CollectorRegistry()
    app = metrics(
        bus=Bus.connect(redis_url),
        registry=registry,
        fleet_metrics=Unforeseen(registry, FLEETS, utc_now()),
        workload=Workload(registry, len(FLEETS.names)),
        put_to_cloudwatch=None,
    )
    with structlog.testing.capture_logs() as logs:
        async with client_of(app):
            for fleet in ("us", "eu"):
                await bus.publish(DECISIONS, fleet, a_decision(fleet=fleet))
            shown = "autopilot_recommended_servers", {"fleet": "eu"}
            await eventually_async(
                lambda: registry.get_sample_value(*shown),
                "the decision is counted",
                holds=lambda servers: servers == 84,
            )
    assert not any(log["event"] == "task_failed" for log in logs)
