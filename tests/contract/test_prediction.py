"""The prediction service's interface, over HTTP, a real Redis and a policy store."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.prediction.app import create_app
from services.prediction.invocations import invoke, observations
from shared.bus import CHAMPIONS, DECISIONS, DEMANDS, Bus
from shared.core.fields import notebook_fields
from shared.core.parameters import FleetParameters
from shared.errors import BadInput
from shared.http.access import Access
from shared.http.tokens import Tokens
from shared.messages import Champion, Decision, Demand
from shared.policies.runtime import initial_policy
from shared.policies.store import LITERT_MODEL, PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import NOW, a_decision
from tests.eventually import eventually_async
from tests.policies import OneByOne

FLEETS = Fleets({"default": FleetSettings(), "eu-west": FleetSettings(history_len=3)})
ROW = [50.0] * 10


@pytest.fixture
def store(tmp_path) -> PolicyStore:
    return PolicyStore.at(tmp_path)


def app_of(redis_url: str, store: PolicyStore, access: Access | None = None) -> Any:
    bus = Bus.connect(redis_url)
    return create_app(bus=bus, fleets=FLEETS, store=store, clock=lambda: NOW, access=access)


@pytest.fixture
async def client(redis_url, store, client_of) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(redis_url, store)) as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, detail: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert detail in answer.json()["detail"]


def decision(target: float = 83.2, fleet: str = "default", version: str = "v1") -> Decision:
    return a_decision(
        fleet=fleet,
        target=target,
        action=target / 100,
        observation=ROW,
        policy_version=version,
        decided_at=NOW,
    )


async def told(client: httpx.AsyncClient, servers: int) -> None:
    """Return once the service tells so many."""

    async def read() -> Any:
        answer = (await client.get("/prediction")).json()
        return answer.get("Prediction", {}).get("num_of_gameservers")

    await eventually_async(read, f"{servers} are told", holds=lambda it: it == servers)


async def served(client: httpx.AsyncClient, version: str) -> None:
    """Return once this version serves."""

    async def read() -> Any:
        return (await client.post("/invocations", json=ROW)).json()["policy_version"]

    await eventually_async(read, f"{version} serves", holds=lambda it: it == version)


async def test_a_decision_made_before_or_after_the_start_is_told(redis_url, bus, store, client_of):
    await bus.publish(DECISIONS, "default", decision())
    async with client_of(app_of(redis_url, store)) as client:
        await told(client, 84)
        await bus.publish(DECISIONS, "default", decision(90))
        await told(client, 90)
        await bus.record_demands([Demand(fleet="default", demand=95.5, observed_at=NOW)], [None])
        await told(client, 96)
        answer = (await client.get("/prediction", params={"fleet": "default"})).json()
        assert answer["guard"] == "below_demand"
        assert answer["Prediction"]["is_false_positive"] == 1
        assert (await client.get("/predict/default")).json() == answer


async def test_with_nothing_known_it_says_so(client):
    for path in ("/prediction", "/predict/default"):
        assert_problem(await client.get(path), 503, "use your own fallback")
    everything = (await client.get("/predictions")).json()
    assert everything["predictions"] == {"default": None, "eu-west": None}
    assert "use your own fallback" in everything["reasons"]["eu-west"]


async def test_all_fleets(client, bus):
    await bus.publish(DECISIONS, "default", decision())
    await told(client, 84)
    everything = (await client.get("/predictions")).json()
    assert everything["predictions"]["default"] == (await client.get("/prediction")).json()
    assert everything["predictions"]["eu-west"] is None
    assert list(everything["reasons"]) == ["eu-west"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/prediction?fleet=mars"),
        ("GET", "/prediction?fleet="),
        ("GET", "/prediction?fleet=default&fleet=mars"),
        ("GET", "/prediction?fleet=%6dars"),
        ("GET", "/predict/mars"),
        ("GET", "/policies?fleet=mars"),
        ("POST", "/invocations?fleet=mars"),
    ],
)
async def test_an_unknown_fleet_is_404_and_names_the_known(client, method, path):
    answer = await client.request(method, path, json=ROW if method == "POST" else None)
    assert_problem(answer, 404, "use one of default, eu-west")


async def test_a_fleet_can_be_named_in_any_encoding(client, bus):
    await bus.publish(DECISIONS, "eu-west", decision(fleet="eu-west"))

    async def holds() -> bool:
        return (await client.get("/prediction?fleet=eu%2Dwest")).status_code == 200

    await eventually_async(holds, "the fleet is known")
    assert (await client.get("/prediction?x=1&fleet=eu-west")).json()["fleet"] == "eu-west"


@pytest.mark.parametrize(
    "path", ["/prediction", "/predict/default", "/predictions", "/policies", "/invocations"]
)
async def test_the_token_is_wanted(redis_url, bus, store, client_of, path):
    await bus.publish(DECISIONS, "default", decision())
    async with client_of(app_of(redis_url, store, Access(Tokens("s3cret")))) as client:
        method, json = ("POST", ROW) if path == "/invocations" else ("GET", None)
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = await client.request(method, path, json=json, headers=headers)
            assert_problem(answer, 401, "AUTOPILOT_API_TOKEN")
            assert answer.headers["www-authenticate"] == "Bearer"

        async def holds() -> bool:
            headers = {"Authorization": "Bearer s3cret"}
            answer = await client.request(method, path, json=json, headers=headers)
            return answer.status_code == 200

        await eventually_async(holds, "the fleet is known")
        for free in ("/healthz", "/readyz"):
            assert (await client.get(free)).status_code == 200, free
        for other in ("/ping", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(other)).status_code == 401, other


# Invocations


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (ROW, 1),
        ([50] * 10, 1),
        ({"observation": ROW}, 1),
        ({"instances": [ROW]}, 1),
        ({"inputs": [ROW, ROW, ROW]}, 3),
        ({"instances": [ROW] * 1000}, 1000),
    ],
)
async def test_every_form_of_invocation(store, redis_url, publish_policy, client_of, body, rows):
    publish_policy(store, "v1")
    async with client_of(app_of(redis_url, store)) as client:
        answer = (await client.post("/invocations", json=body)).json()
    assert answer["predictions"] == [[pytest.approx(0.5)]] * rows
    assert answer["num_of_gameservers"] == [50] * rows
    assert answer["policy_version"] == "v1"


async def test_invocations_keep_to_the_limits_and_the_order(
    store, redis_url, publish_policy, client_of
):
    publish_policy(store, "v1")
    rows = [[0] * 10, [1000] * 10, [55.5] * 10, [-50] * 10]
    async with client_of(app_of(redis_url, store)) as client:
        answer = (await client.post("/invocations", json={"instances": rows})).json()
    assert answer["num_of_gameservers"] == [10, 100, 56, 10]
    assert answer["predictions"][1] == [pytest.approx(10.0)]


async def test_without_a_champion_the_pretrained_policy_answers(client):
    answer = (await client.post("/invocations", json={"observation": ROW})).json()
    assert answer["policy_version"].startswith("general-5-")
    assert 50 <= answer["num_of_gameservers"][0] <= 65, "a level demand of 50, and some headroom"


async def test_where_the_pretrained_policy_does_not_fit_the_rule_answers(client):
    """It is made for servers that take five steps; `eu-west` has three."""
    body = {"observation": [50.0] * 6}
    answer = (await client.post("/invocations", params={"fleet": "eu-west"}, json=body)).json()
    # A level demand of 50 with a tenth of headroom.
    assert answer["predictions"] == [[pytest.approx(0.55)]]
    assert answer["num_of_gameservers"] == [55]
    assert answer["policy_version"] == "rule:trend"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("", "not JSON"),
        ("[1, 2", "not JSON"),
        ("[NaN,1,2,3,4,5,6,7,8,9]", "not JSON"),
        ("[1e999,1,2,3,4,5,6,7,8,9]", "send [10 numbers]"),
        ("5", "none of the known forms"),
        ("null", "none of the known forms"),
        ("{}", "none of the known forms"),
        ('{"rows": [[1]]}', "none of the known forms"),
        ('{"instances": []}', "none of the known forms"),
        ('{"instances": 5}', "none of the known forms"),
        ('{"instances": [[1]], "inputs": [[1]]}', "none of the known forms"),
        ("[]", "wrong length (0 numbers)"),
        (json.dumps(ROW[1:]), "wrong length (9 numbers)"),
        (json.dumps([*ROW, 1]), "wrong length (11 numbers)"),
        (json.dumps([ROW]), "wrong length (1 numbers)"),
        (json.dumps({"instances": [ROW, ROW[1:]]}), "wrong length (9 numbers)"),
        (json.dumps({"instances": ROW}), "wrong length (float)"),
        (json.dumps({"observation": "many"}), "wrong length (str)"),
        (json.dumps([*ROW[1:], "5"]), "something else than numbers"),
        (json.dumps([*ROW[1:], None]), "null for a number that is always known"),
        (json.dumps([*ROW[1:], True]), "something else than numbers"),
        (json.dumps([*ROW[1:], [5]]), "something else than numbers"),
        (json.dumps([*ROW[1:], 1e30]), "beyond 1000000"),
        (json.dumps([*ROW[1:], -1e30]), "beyond 1000000"),
        (json.dumps([*ROW[1:], 10**400]), "not JSON"),
        ("[1e400]", "not JSON"),
        ("[" * 5_000 + "]" * 5_000, "not JSON"),
        (json.dumps({"x" * 60_000: [ROW]}), "known forms"),
        ("[123456789012345678901234567890,1,2,3,4,5,6,7,8,9]", "send [10 numbers]"),
        (json.dumps({"instances": [ROW] * 1001}), "at most 1000"),
    ],
)
async def test_what_is_no_observation_is_refused(client, body, detail):
    answer = await client.post("/invocations", content=body)
    assert_problem(answer, 422, detail)
    if "at most" not in detail:
        assert "demand[-5], demand[-4]" in answer.json()["detail"]


async def test_each_fleet_has_its_own_fields(client):
    answer = await client.post("/invocations", params={"fleet": "eu-west"}, json=ROW)
    assert_problem(answer, 422, "send [6 numbers]")
    answer = await client.post("/invocations", params={"fleet": "eu-west"}, json=ROW[:6])
    assert answer.status_code == 200


async def test_too_much_at_once_is_413(client):
    body = b"[" + b" " * 1024 * 1024 + b"]"
    assert_problem(await client.post("/invocations", content=body), 413, "1048576")


# Champions


async def test_a_new_champion_serves_within_a_second(client, bus, store, publish_policy):
    await served(client, initial_policy(FLEETS["default"].parameters).version)
    for version in ("v1", "v2"):
        await bus.publish(CHAMPIONS, "default", publish_policy(store, version))
        await served(client, version)


async def test_the_store_is_the_truth_at_the_start(
    redis_url, bus, store, publish_policy, client_of
):
    """Redis has lost the champion, or has an older one."""
    older = publish_policy(store, "v1")
    publish_policy(store, "v2")
    async with client_of(app_of(redis_url, store)) as client:
        await served(client, "v2")
        await bus.publish(CHAMPIONS, "default", older)
        await bus.publish(DECISIONS, "default", decision())
        await told(client, 84)  # it has read what came before, too
        await served(client, "v2")


def break_hash(store: PolicyStore) -> None:
    model = store.files.root.joinpath("default", "v2") / LITERT_MODEL
    model.write_bytes(model.read_bytes()[:-1] + b"x")


def lose_model(store: PolicyStore) -> None:
    (store.files.root.joinpath("default", "v2") / LITERT_MODEL).unlink()


def break_manifest(store: PolicyStore) -> None:
    (store.files.root.joinpath("default", "v2") / "policy.json").write_text("{")


def break_pointer(store: PolicyStore) -> None:
    (store.files.root / "default" / "champion.json").write_text("{")


def damage_nothing(store: PolicyStore) -> None:
    """The manifest is what is wrong."""


FIELDS_OF_OTHERS = tuple(f"x{i}" for i in range(10))


@pytest.mark.parametrize(
    ("damage", "manifest"),
    [
        (break_hash, {}),
        (lose_model, {}),
        (break_manifest, {}),
        (break_pointer, {}),
        (damage_nothing, {"observation_fields": FIELDS_OF_OTHERS}),
        (damage_nothing, {"min_servers": 200}),
    ],
)
async def test_a_policy_that_can_not_serve_is_refused_and_the_old_goes_on(
    client, bus, store, publish_policy, damage, manifest
):
    await bus.publish(CHAMPIONS, "default", publish_policy(store, "v1"))
    await served(client, "v1")
    broken = publish_policy(store, "v2", **manifest)
    damage(store)
    await bus.publish(CHAMPIONS, "default", broken)

    async def refused() -> bool:
        return "autopilot_policies_refused_total 1.0" in (await client.get("/metrics")).text

    await eventually_async(refused, "the new version is refused")
    await served(client, "v1")
    answer = await client.post("/invocations", json=ROW)
    assert answer.json()["num_of_gameservers"] == [50]
    await bus.publish(CHAMPIONS, "default", publish_policy(store, "v3"))
    await served(client, "v3")


@pytest.mark.parametrize("made_for", [{"max_servers": 50}, {"action_factor": 50}])
async def test_a_champion_of_other_limits_serves_by_the_present_ones(
    client, bus, store, publish_policy, made_for
):
    champion = publish_policy(store, "v1", **made_for)
    await bus.publish(CHAMPIONS, "default", champion)
    await served(client, "v1")
    # The mean over 100, whatever the manifest calls an action of 1.0.
    servers = made_for.get("action_factor", 100) * 0.8
    answer = (await client.post("/invocations", json=[80.0] * 10)).json()
    assert answer["num_of_gameservers"] == [servers]
    assert answer["predictions"] == [[pytest.approx(servers / 100)]]
    assert "autopilot_policies_refused_total 0.0" in (await client.get("/metrics")).text


async def test_policies_say_which_lead_time_they_are_made_for(client, store, publish_policy):
    publish_policy(store, "v1")
    listed = (await client.get("/policies")).json()["policies"]
    assert [one["history_len"] for one in listed] == [5]


async def test_a_model_of_another_shape_is_refused(redis_url, store, publish_policy, client_of):
    """The model takes 10 numbers, and the fleet and the manifest say 6."""
    parameters = FLEETS["eu-west"].parameters
    shape = {"observation_fields": parameters.observation_fields, "history_len": 3}
    publish_policy(store, "v1", "eu-west", **shape)
    async with client_of(app_of(redis_url, store)) as client:
        assert "autopilot_policies_refused_total 1.0" in (await client.get("/metrics")).text
        answer = await client.post("/invocations", params={"fleet": "eu-west"}, json=ROW[:6])
        assert answer.json()["policy_version"] == "rule:trend"


CALENDAR = FleetParameters(observation="calendar").observation_fields


class Shown(OneByOne):
    """A policy that sees the calendar, and keeps what it is shown."""

    version = "v1"
    learnt = True
    fields = CALENDAR

    def __init__(self) -> None:
        self.observations: list[list[float]] = []

    def answers(self, observation):
        self.observations.append(list(observation))
        return (0.5,)


def test_ten_numbers_are_valid_for_a_policy_that_sees_more():
    parameters = FleetParameters(observation="calendar")
    ten = [float(number) for number in range(1, 11)]
    rows = observations(json.dumps(ten).encode(), CALENDAR, parameters)
    policy = Shown()
    answer = json.loads(invoke(policy, rows, parameters))
    assert answer["num_of_gameservers"] == [50]
    (shown,) = policy.observations
    by_name = dict(zip(CALENDAR, shown, strict=True))
    assert [by_name.pop(name) for name in notebook_fields(5)] == ten
    assert all(math.isnan(value) for value in by_name.values())


def test_null_is_a_field_out_of_reach():
    parameters = FleetParameters(observation="calendar")
    row = [None if name.startswith("week_ago") else 0.5 for name in CALENDAR]
    (read,) = observations(json.dumps({"instances": [row]}).encode(), CALENDAR, parameters)
    assert [math.isnan(value) for value in read] == [value is None for value in row]
    with pytest.raises(BadInput, match="null for a number that is always known"):
        observations(json.dumps([None, *row[1:]]).encode(), CALENDAR, parameters)
    with pytest.raises(BadInput, match=r"week_ago\[\+12\]"):
        observations(json.dumps(row[1:]).encode(), CALENDAR, parameters)


async def test_policies_are_listed(client, bus, store, publish_policy):
    empty = (await client.get("/policies")).json()
    assert empty == {
        "fleet": "default",
        "champion": None,
        "serving": initial_policy(FLEETS["default"].parameters).version,
        "policies": [],
    }
    publish_policy(store, "v1")
    await bus.publish(CHAMPIONS, "default", publish_policy(store, "v2"))
    await served(client, "v2")
    (store.files.root.joinpath("default", "v1") / "policy.json").write_text("{")
    listed = (await client.get("/policies", params={"fleet": "default"})).json()
    assert listed["champion"]["version"] == listed["serving"] == "v2"
    broken, good = listed["policies"]
    assert broken["version"] == "v1"
    assert "not a policy manifest" in broken["error"]
    assert good["version"] == "v2"
    assert good["scores"] == {"cost_per_step": 12.5}
    assert good["error"] is None


async def test_a_broken_pointer_is_no_champion(client, store, publish_policy):
    publish_policy(store, "v1")
    (store.files.root / "default" / "champion.json").write_text("{")
    answer = await client.get("/policies")
    assert answer.status_code == 200
    assert answer.json()["champion"] is None


# Redis


async def test_without_redis_it_answers_from_memory_and_catches_up(own_redis, store, client_of):
    async with client_of(app_of(own_redis.url, store)) as client:
        bus = Bus.connect(own_redis.url)
        assert (await client.get("/readyz")).status_code == 200
        await bus.publish(DECISIONS, "default", decision())
        await told(client, 84)
        own_redis.stop()
        await told(client, 84)
        assert (await client.get("/readyz")).status_code == 200
        own_redis.start()
        await bus.publish(DECISIONS, "default", decision(90))
        await told(client, 90)
        await bus.close()


async def test_without_redis_and_memory_it_is_not_ready(own_redis, store, client_of):
    own_redis.stop()
    async with client_of(app_of(own_redis.url, store)) as client:
        assert_problem(await client.get("/readyz"), 503, "Redis does not answer")
        assert (await client.get("/healthz")).status_code == 200
        assert_problem(await client.get("/prediction"), 503, "use your own fallback")


async def test_what_can_not_be_read_does_not_stop_the_rest(client, bus):
    await bus._client.hset(DECISIONS.state, "eu-west", "{}")
    await bus._client.xadd(DECISIONS.changes, {"fleet": "default", "message": "{}"})
    await bus._client.xadd(DEMANDS.changes, {"nothing": "at all"})
    await bus.publish(DECISIONS, "default", decision())
    await told(client, 84)


async def test_a_champion_of_a_fleet_that_is_not_ours_is_left_out(client, bus):
    champion = Champion(fleet="elsewhere", version="v1", since=NOW)
    await bus.publish(CHAMPIONS, "elsewhere", champion)
    await bus.publish(DECISIONS, "elsewhere", decision(fleet="elsewhere"))
    await bus.publish(DECISIONS, "default", decision())
    await told(client, 84)
