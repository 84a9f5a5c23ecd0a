"""The Agones webhook: whose fleet, which number, what is recorded; over HTTP and a real Redis."""

import json
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from services.prediction.agones import FLEET_ANNOTATION, REVIEW_LIMIT
from services.prediction.app import create_app
from services.prediction.fleet_states import FleetStates
from shared.bus import DECISIONS, Bus
from shared.http.access import Access
from shared.http.tokens import Tokens
from shared.messages import Decision, Demand, FleetSupply, Supply
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import NOW, a_decision
from tests.eventually import eventually_async

JSON = {"Content-Type": "application/json"}
TTL = 60.0
FLEETS = Fleets(
    {
        name: FleetSettings(demand_ttl=TTL, decision_ttl=TTL)
        for name in ("default", "eu-west", "eu-east")
    }
)


def review(name: str = "default", allocated: int = 0, **request: Any) -> dict[str, Any]:
    """As Agones 1.55 sends it, with its features for metadata, counters and lists on."""
    status = {
        "replicas": 60,
        "readyReplicas": 20,
        "reservedReplicas": 1,
        "allocatedReplicas": allocated,
        "players": None,
        "counters": {"rooms": {"allocatedCount": 1, "allocatedCapacity": 9, "count": 2}},
        "lists": {"players": {"allocatedCount": 0, "capacity": 100, "count": 0}},
    }
    return {
        "request": {
            "uid": "01f0c6f2-c7a5-11f0-8b1d-0242ac120002",
            "name": name,
            "namespace": "games",
            "status": status,
            **request,
        },
        "response": None,
    }


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> Any:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(redis_url, tmp_path, client_of, clock) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        bus=Bus.connect(redis_url), fleets=FLEETS, store=PolicyStore.at(tmp_path), clock=clock
    )
    async with client_of(app) as client:
        yield client


async def known(client: httpx.AsyncClient, bus: Bus, told: Decision | Demand) -> None:
    """Return when prediction knows a decision or a demand."""
    fleet = told.fleet
    if isinstance(told, Decision):
        await bus.publish(DECISIONS, fleet, told)
        number = math.ceil(told.target)
    else:
        await bus.record_demands([told], [None])
        number = told.demand

    async def known() -> tuple[Any, Any]:
        answer = await client.get("/prediction", params={"fleet": fleet})
        found = answer.json().get("Prediction", {})
        return found.get("num_of_gameservers"), found.get("curr_demand")

    await eventually_async(known, f"{number} is known", holds=lambda numbers: number in numbers)


def decided(target: float, fleet: str = "default", age_s: float = 0.0, **changes: Any) -> Decision:
    at = NOW - timedelta(seconds=age_s)
    return a_decision(fleet=fleet, target=target, curr_demand=5, decided_at=at, **changes)


async def replicas(client: httpx.AsyncClient, sent: dict[str, Any], path: str = "") -> int:
    answer = await client.post(f"/agones/scale{path}", json=sent)
    assert answer.status_code == 200, answer.text
    response = answer.json()["response"]
    assert response["scale"] is True
    return int(response["replicas"])


async def refused(client: httpx.AsyncClient, status: int, **request: Any) -> str:
    answer = await client.post("/agones/scale", **request)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


async def test_the_review_comes_back_as_it_went_with_a_response(client, bus):
    await known(client, bus, decided(42))
    sent = review(annotations={"agones.dev/sdk-version": "1.55"}, labels={"game": "x"})
    answer = await client.post("/agones/scale", json=sent)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    response = {"uid": sent["request"]["uid"], "scale": True, "replicas": 42}
    assert answer.json() == {"request": sent["request"], "response": response}


async def test_a_review_of_the_first_agones_is_enough(client, bus):
    await known(client, bus, decided(42))
    status = {"replicas": 1, "readyReplicas": 1, "allocatedReplicas": 0}
    request = {"uid": "u", "name": "default", "namespace": "", "status": status}
    assert await replicas(client, {"request": request}) == 42


@pytest.mark.parametrize(
    ("target", "allocated", "told"),
    [(42, 0, 42), (41.2, 0, 42), (42, 42, 42), (42, 57, 57), (42, 100, 100), (42, 140, 100)],
)
async def test_never_below_what_is_allocated_nor_beyond_the_limits(
    client, bus, target, allocated, told
):
    await known(client, bus, decided(target, observation=(target,) * 10))
    assert await replicas(client, review(allocated=allocated)) == told


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        (review("eu-west"), ""),
        (review("eu.game-7", annotations={FLEET_ANNOTATION: "eu-west"}), ""),
        (review("eu-east", annotations={FLEET_ANNOTATION: "eu-west"}), ""),
        (review("eu-east", annotations={FLEET_ANNOTATION: "default"}), "?fleet=eu-west"),
        (review("eu-east"), "/eu-west"),
    ],
)
async def test_whose_fleet_it_is(client, bus, sent, path):
    await known(client, bus, decided(42, "eu-west"))
    await known(client, bus, decided(77, "eu-east"))
    assert await replicas(client, sent, path) == 42


async def test_an_unknown_fleet_is_another_policys_business(client, bus):
    await known(client, bus, decided(42))
    detail = await refused(client, 404, json=review("mars"))
    assert "there is no fleet 'mars'" in detail
    assert await bus.newest_supplies(["mars"]) == {}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"request": null}', "request"),
        (json.dumps({"response": review()["request"]}).encode(), "request"),
        (json.dumps(review(uid=7)).encode(), "request.uid"),
        (json.dumps(review(allocated=-1)).encode(), "request.status.allocatedReplicas"),
        (json.dumps(review(allocated=1_000_001)).encode(), "request.status.allocatedReplicas"),
        (json.dumps(review(allocated=10**400)).encode(), "request.status.allocatedReplicas"),
        (json.dumps(review(status={"replicas": 10**9})).encode(), "request.status.replicas"),
        (json.dumps(review("x" * 254)).encode(), "request.name"),
        (json.dumps(review(uid="x" * 254)).encode(), "request.uid"),
        (json.dumps(review(namespace="x" * 64)).encode(), "request.namespace"),
        (json.dumps(review(labels={"game": "x" * 64})).encode(), "request.labels.game"),
        (json.dumps(review(labels={"x" * 318: "1"})).encode(), "request.labels.xxx"),
        (json.dumps(review(annotations={"x" * 318: "1"})).encode(), "request.annotations.xxx"),
        (json.dumps(review(allocated="3")).encode(), "request.status.allocatedReplicas"),
        (json.dumps(review(status={"replicas": 1})).encode(), "request.status.readyReplicas"),
        (json.dumps(review(annotations={"a": 1})).encode(), "request.annotations.a"),
    ],
)
async def test_what_is_no_review_is_422_and_names_the_field(client, bus, sent, field):
    await known(client, bus, decided(42))
    assert field in await refused(client, 422, content=sent, headers=JSON)


async def test_the_largest_annotations_that_kubernetes_allows_are_taken(client, bus):
    """256 KiB, of JSON in JSON: what `kubectl apply` leaves has the whole fleet in it."""
    await known(client, bus, decided(42))
    key = "kubectl.kubernetes.io/last-applied-configuration"
    applied = json.dumps({"spec": '"' * (128 * 1024 - 30)})
    applied += " " * (256 * 1024 - len(key) - len(applied))
    assert await replicas(client, review(annotations={key: applied})) == 42
    too_large = review(annotations={key: applied, "a": ""})
    assert "Kubernetes allows 262144" in await refused(client, 422, json=too_large)
    await refused(client, 413, content=b" " * (REVIEW_LIMIT + 1), headers=JSON)


class TestWhatIsUnsafe:
    async def test_nothing_known(self, client):
        assert "use your own fallback" in await refused(client, 503, json=review())

    async def test_a_decision_that_is_stale(self, client, bus, clock):
        await known(client, bus, decided(42))
        assert await replicas(client, review()) == 42
        clock.now += timedelta(seconds=TTL + 1)
        assert "use your own fallback" in await refused(client, 503, json=review())

    async def test_a_rule_that_stands_in_limits_no_moves(self, client, bus):
        await known(client, bus, Demand(fleet="default", demand=30, observed_at=NOW))
        told = (await client.get("/prediction")).json()
        assert told["fallback"] == "stale_decision"
        assert "only a rule's" in await refused(client, 503, json=review())

    async def test_the_first_policy_of_a_fleet_is_followed(self, client, bus):
        await known(client, bus, decided(42, fallback="no_policy"))
        assert await replicas(client, review()) == 42

    async def test_a_target_is_held_while_the_demand_counts_and_no_longer(self, client, bus, clock):
        """A source other than `POST /demand`: decisions tell when it was silent."""
        await known(client, bus, decided(42))
        for target, age_s in ((43, 0), (44, TTL)):
            clock.now = NOW + timedelta(seconds=age_s)
            await known(client, bus, decided(target, age_s=-age_s, fallback="stale_demand"))
            assert await replicas(client, review()) == target
        clock.now += timedelta(seconds=1)
        assert "check the matchmaker" in await refused(client, 503, json=review())
        assert (await client.get("/prediction")).json()["fallback"] == "stale_demand"
        back = decided(50, age_s=-TTL - 1)
        await known(client, bus, back)
        assert await replicas(client, review()) == 50

    async def test_what_was_reported_counts_from_when_it_was_observed(self, client, bus, clock):
        reported = Demand(fleet="default", demand=5, observed_at=NOW - timedelta(seconds=TTL - 10))
        await known(client, bus, reported)
        await known(client, bus, decided(42))
        await known(client, bus, decided(43, fallback="stale_demand"))
        assert await replicas(client, review()) == 43
        clock.now += timedelta(seconds=11)
        assert "check the matchmaker" in await refused(client, 503, json=review())

    async def test_a_report_of_another_time_does_not_end_a_hold(self, client, bus):
        """Demand was posted once; now the fleet reads it elsewhere."""
        await bus.record_demands(
            [Demand(fleet="default", demand=5, observed_at=NOW - timedelta(days=1))], [None]
        )
        await known(client, bus, decided(42))
        await known(client, bus, decided(43, fallback="stale_demand"))
        assert await replicas(client, review()) == 43

    async def test_after_a_restart_a_held_target_is_not_trusted(self, client, bus):
        await known(client, bus, decided(42, fallback="stale_demand"))
        assert "check the matchmaker" in await refused(client, 503, json=review())


async def supply_of(bus: Bus, fleet: str) -> FleetSupply:
    found = await eventually_async(lambda: bus.newest_supplies([fleet]), f"a supply of {fleet}")
    return found[fleet]


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    return {sample.name: sample.value for family in families for sample in family.samples}


class TestSupply:
    async def test_it_is_recorded_whatever_is_answered(self, client, bus):
        await refused(client, 503, json=review("eu-west", allocated=7))
        assert await supply_of(bus, "eu-west") == FleetSupply(
            fleet="eu-west",
            at=NOW,
            supply=Supply(allocated=7, ready=20, reserved=1, starting=32),
        )

    async def test_the_newest_counts_and_ends_when_nobody_tells_any_more(self, client, bus):
        for allocated in (7, 8, 9):
            await client.post("/agones/scale", json=review(allocated=allocated))
        await eventually_async(
            lambda: supply_of(bus, "default"),
            "the newest counts",
            holds=lambda found: found.supply.allocated == 9,
        )
        left_s = await bus._client.ttl("autopilot:supply:default")
        assert 0 < left_s <= 120

    async def test_without_redis_the_answer_comes_and_the_loss_is_counted(
        self, own_redis, tmp_path, client_of
    ):
        app = create_app(
            bus=Bus.connect(own_redis.url),
            fleets=FLEETS,
            store=PolicyStore.at(tmp_path),
            clock=lambda: NOW,
        )
        bus = Bus.connect(own_redis.url)
        async with client_of(app) as client:
            await known(client, bus, decided(42))
            own_redis.stop()
            for _ in range(3):
                assert await replicas(client, review()) == 42

            async def total(of: str) -> float:
                return (await counted(client))[f"autopilot_supplies_{of}_total"]

            async def recorded() -> float:
                assert await replicas(client, review()) == 42
                return await total("recorded")

            await eventually_async(lambda: total("lost"), "the loss is counted")
            own_redis.start()
            await eventually_async(recorded, "a supply is recorded again")
            assert (await supply_of(bus, "default")).supply.ready == 20
        await bus.close()


async def test_it_takes_a_token_of_its_own_in_the_address(redis_url, tmp_path, client_of):
    app = create_app(
        bus=Bus.connect(redis_url),
        fleets=FLEETS,
        store=PolicyStore.at(tmp_path),
        clock=lambda: NOW,
        access=Access(Tokens("s3cret", "h00k")),
    )
    async with client_of(app) as client:
        url = "http://agones:h00k@service"
        assert (await client.post("/agones/scale", json=review())).status_code == 401
        for path in ("", "/default"):
            answer = await client.post(f"{url}/agones/scale{path}", json=review())
            assert answer.status_code == 503
        assert (await client.get(f"{url}/prediction")).status_code == 403


@given(target=st.floats(0, 200), demand=st.floats(0, 200), allocated=st.integers(0, 300))
def test_whatever_is_decided_and_allocated_the_number_is_within_the_limits(
    target, demand, allocated
):
    """On the states itself: no Redis, no HTTP."""
    states = FleetStates(FLEETS)
    states.update(decided(target))
    states.update(Demand(fleet="default", demand=demand, observed_at=NOW))
    before = states.to_follow("default", NOW).Prediction.num_of_gameservers
    counted = Supply(allocated=allocated)
    states.update(FleetSupply(fleet="default", at=NOW, supply=counted))
    servers = states.to_follow("default", NOW).Prediction.num_of_gameservers
    assert 10 <= servers <= 100
    assert servers == max(before, min(allocated, 100))


def test_what_is_allocated_counts_for_as_long_as_it_is_told_again():
    """With the same count, and after a silence of Agones."""
    fleets = Fleets({"default": FleetSettings(decision_ttl=10_000)})
    states = FleetStates(fleets)
    states.update(decided(42))

    def told(seconds: float) -> int:
        answer = states.to_follow("default", NOW + timedelta(seconds=seconds))
        return answer.Prediction.num_of_gameservers

    def count(seconds: float, allocated: int = 57) -> None:
        at = NOW + timedelta(seconds=seconds)
        supply = FleetSupply(fleet="default", at=at, supply=Supply(allocated=allocated))
        states.update(supply)

    count(0)
    assert told(0) == 57
    count(60)
    assert (told(119), told(121), told(180), told(181)) == (57, 57, 57, 42)
    count(300)
    assert (told(300), told(421)) == (57, 42)
    count(500)
    count(501, allocated=3)
    assert told(502) == 42


async def test_a_fleet_in_shadow_goes_by_its_own_policy_and_is_counted_all_the_same(
    redis_url, tmp_path, client_of, bus
):
    app = create_app(
        bus=Bus.connect(redis_url),
        fleets=Fleets({"default": FleetSettings(shadow=True)}),
        store=PolicyStore.at(tmp_path),
        clock=lambda: NOW,
    )
    async with client_of(app) as client:
        await bus.publish(DECISIONS, "default", decided(42))
        assert "shadow" in await refused(client, 503, json=review(allocated=7))
        assert (await supply_of(bus, "default")).supply.allocated == 7
