"""A fleet in shadow: decided for and scored, and nobody follows it. Over HTTP and by command."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.prediction.app import create_app
from shared.bus import DECISIONS, MODES, Bus
from shared.messages import FleetMode, RecordedStep, utc_now
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import a_decision, a_step
from tests.eventually import eventually_async

LONG = {"demand_ttl": 3600, "decision_ttl": 3600}
FLEETS = Fleets(
    {"default": FleetSettings(**LONG), "new": FleetSettings(shadow=True, **LONG)},
)


def app_of(redis_url: str, tmp_path) -> Any:
    return create_app(
        bus=Bus.connect(redis_url), fleets=FLEETS, store=PolicyStore.at(tmp_path), clock=utc_now
    )


async def decide(bus: Bus, **changes: Any) -> None:
    for fleet in FLEETS.names:
        await bus.publish(
            DECISIONS, fleet, a_decision(fleet=fleet, decided_at=utc_now(), **changes)
        )


async def say(bus: Bus, fleet: str, *, shadow: bool) -> None:
    await bus.publish(MODES, fleet, FleetMode(fleet=fleet, shadow=shadow, since=utc_now()))


async def asked(client: httpx.AsyncClient, fleet: str, status: int, **query: str) -> httpx.Response:
    """The first answer with this status."""
    return await eventually_async(
        lambda: client.get("/prediction", params={"fleet": fleet, **query}),
        f"{status} for {fleet}",
        holds=lambda answer: answer.status_code == status,
    )


async def test_a_shadow_is_told_to_those_who_ask_for_it_alone(redis_url, bus, tmp_path, client_of):
    await decide(bus)
    async with client_of(app_of(redis_url, tmp_path)) as client:
        live = (await asked(client, "default", 200)).json()
        assert live["shadow"] is False
        refused = await client.get("/prediction", params={"fleet": "new"})
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        for part in ("in shadow", "use your own fallback", "shadow=true", "fleets live new"):
            assert part in refused.json()["detail"]
        assert (await client.get("/predict/new")).json() == refused.json()
        shadow = (await client.get("/prediction", params={"fleet": "new", "shadow": "true"})).json()
        assert (shadow["shadow"], shadow["Prediction"]) == (True, live["Prediction"])
        assert (await client.get("/predict/new?shadow=true")).json()["shadow"] is True
        as_ever = await client.get("/prediction", params={"fleet": "new", "shadow": "false"})
        assert as_ever.status_code == 503

        every = (await client.get("/predictions")).json()
        assert every["predictions"]["new"] is None
        assert "in shadow" in every["reasons"]["new"]
        every = (await client.get("/predictions?shadow=true")).json()
        assert every["predictions"]["new"]["shadow"] is True
        assert every["reasons"] == {}
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("word", ["maybe", "", "1"])
async def test_shadow_is_true_or_false(redis_url, bus, tmp_path, client_of, word):
    await decide(bus)
    async with client_of(app_of(redis_url, tmp_path)) as client:
        await asked(client, "default", 200)
        for path in ("/prediction", "/predictions", "/predict/new"):
            answer = await client.get(path, params={"shadow": word})
            assert answer.status_code == 422
            assert f"shadow is {word!r}: write shadow=true" in answer.json()["detail"]


async def test_what_an_operator_says_goes_over_the_setting(redis_url, bus, tmp_path, client_of):
    await decide(bus)
    await say(bus, "default", shadow=True)
    async with client_of(app_of(redis_url, tmp_path)) as client:
        assert (await asked(client, "default", 200, shadow="true")).json()["shadow"] is True
        assert (await client.get("/prediction")).status_code == 503, "said before the start"
        await say(bus, "default", shadow=False)
        await asked(client, "default", 200)
        await say(bus, "new", shadow=False)
        assert (await asked(client, "new", 200)).json()["shadow"] is False


async def test_without_redis_the_last_word_holds(own_redis, tmp_path, client_of):
    bus = Bus.connect(own_redis.url)
    async with client_of(app_of(own_redis.url, tmp_path)) as client:
        await decide(bus)
        await say(bus, "default", shadow=True)
        await say(bus, "new", shadow=False)
        await asked(client, "default", 503)
        await asked(client, "new", 200)
        own_redis.stop()
        assert (await client.get("/prediction")).status_code == 503
        assert (await client.get("/prediction?fleet=new")).status_code == 200
        own_redis.start()
        await bus.publish(
            DECISIONS, "new", a_decision(fleet="new", target=90, decided_at=utc_now())
        )

        async def told() -> int:
            answer = await asked(client, "new", 200)
            return answer.json()["Prediction"]["num_of_gameservers"]

        await eventually_async(told, "the new decision", holds=lambda servers: servers == 90)
        assert (await client.get("/prediction")).status_code == 503
    await bus.close()


# By command


@pytest.fixture
def run(tmp_path, redis_url, autopilot):
    (tmp_path / "fleets.toml").write_text(
        "[default]\ndecision_ttl = 3600\n[new]\nshadow = true\ndecision_ttl = 3600\n"
    )

    variables = {
        "AUTOPILOT_REDIS_URL": redis_url,
        "AUTOPILOT_FLEETS": str(tmp_path / "fleets.toml"),
    }
    return lambda *words, **others: autopilot("fleets", *words, **variables | others)


async def test_a_fleet_goes_live_and_back_by_one_command_without_a_restart(
    redis_url, bus, tmp_path, client_of, run
):
    await decide(bus)
    async with client_of(app_of(redis_url, tmp_path)) as client:
        await asked(client, "new", 503)
        done = await asyncio.to_thread(run, "live", "new")
        assert (done.returncode, done.stderr) == (0, "")
        assert "fleet new is live" in done.stdout
        await asked(client, "new", 200)
        done = await asyncio.to_thread(run, "shadow", "new")
        assert "fleet new is in shadow" in done.stdout
        await asked(client, "new", 503)


def commit(redis_url: str, up: int | None) -> None:
    """Twenty steps of `new`, which needed 50 servers and would have had 52."""

    async def steps() -> None:
        bus = Bus.connect(redis_url)
        now = utc_now()
        for number in range(1, 21):
            at = now + (number - 20) * timedelta(seconds=65)
            made = a_step(number, "new", at=at)
            row = RecordedStep(number, at.timestamp(), 50.0, True, 0, 52.0, 52.0, up)
            await bus.commit_step(*made._replace(recorded=row))
        await bus.close()

    asyncio.run(steps())


@pytest.mark.parametrize(
    ("up", "costs"),
    [
        (45, {"decided": 2.0, "instead": 25.0, "compared_with": "ran", "steps": 20}),
        (None, {"decided": 2.0, "instead": 5.0, "compared_with": "rule", "steps": 10}),
    ],
)
def test_the_list_says_what_following_the_shadow_would_have_cost(redis_url, run, up, costs):
    commit(redis_url, up)
    listed = json.loads(run("list", "--json").stdout)["fleets"]
    default, new = listed
    assert (default["fleet"], default["shadow"], default["live_costs"]) == ("default", False, None)
    assert "use your own fallback" in default["reason"]
    assert (new["shadow"], new["policy_version"], new["num_of_gameservers"]) == (True, "v1", 50)
    assert (new["demand"], new["reason"]) == (50.0, None)
    assert new["live_costs"] == pytest.approx(costs)

    table = run("list").stdout
    row = next(line for line in table.splitlines() if line.startswith("new "))
    instead = (f"{costs['instead']:.2f}", costs["compared_with"])
    assert row.split() == ["new", "shadow", "v1", "50.0", "(50)", "2.00", *instead]
    assert " live " in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("command", ["live", "shadow"])
def test_a_fleet_that_is_not_there_is_one_line(run, command):
    refused = run(command, "asia")
    assert refused.returncode == 2
    assert refused.stderr.startswith("autopilot: there is no fleet 'asia': use one of default, new")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("live", "new"), ("list",)])
def test_without_redis_the_command_says_so(run, unused_port, arguments):
    refused = run(*arguments, AUTOPILOT_REDIS_URL=f"redis://127.0.0.1:{unused_port()}/0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("autopilot: Redis does not answer")
    assert len(refused.stderr.splitlines()) == 1
