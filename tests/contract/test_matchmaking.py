"""The matchmaking service's interface, over HTTP and a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from services.matchmaking.app import create_app
from shared.bus import DEMANDS, Bus, DemandReceipt, IdempotencyKey
from shared.errors import BusAway
from shared.http.access import Access
from shared.http.tokens import Tokens
from shared.messages import Demand
from shared.settings import Fleets, FleetSettings

NOW = datetime(2026, 11, 22, 20, 33, 1, tzinfo=UTC)
FLEETS = Fleets({"default": FleetSettings(), "eu-west": FleetSettings()})
JSON = {"Content-Type": "application/json"}
TTL_S = FLEETS["default"].demand_ttl_s


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(redis_url, clock, client_of) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(bus=Bus.connect(redis_url), fleets=FLEETS, clock=clock)
    async with client_of(app) as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, detail: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert detail in problem["detail"]


def moment(offset: timedelta) -> str:
    return (NOW + offset).isoformat()


async def reports_in(bus: Bus) -> int:
    return await bus._client.xlen(DEMANDS.changes)


@pytest.mark.parametrize(
    ("report", "demand"),
    [
        ({"num_of_gameservers": 84}, 84.0),
        ({"num_of_gameservers": 0}, 0.0),
        ({"num_of_gameservers": 1_000_000}, 1_000_000.0),
        ({"num_of_gameservers": 84.25, "fleet": "eu-west"}, 84.25),
        ({"ccu": 1000, "players_per_server": 16}, 62.5),
        ({"ccu": 3_200_000, "players_per_server": 100}, 32_000.0),
        (
            {
                "num_of_gameservers": 1,
                "observed_at": "2026-11-22T21:33:00+01:00",
                "source": "lobby",
                "seq": 7,
                "idempotency_key": "k",
                "tickets_waiting": 3,
                "oldest_ticket_age_s": 1.5,
                "supply": {"allocated": 1, "ready": 2, "reserved": 3, "starting": 4},
            },
            1.0,
        ),
        ({"num_of_gameservers": 2, "observed_at": moment(timedelta(minutes=4, seconds=59))}, 2.0),
    ],
)
async def test_demand_is_accepted_and_served(client, bus, report, demand):
    answer = await client.post("/demand", json=report)
    fleet = report.get("fleet", "default")
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body.pop("id")
    assert body == {"accepted": True, "duplicate": False, "superseded": False, "fleet": fleet}
    assert (await bus.newest_demand(fleet)).demand == demand
    read = await client.get("/demand", params={"fleet": fleet})
    assert read.json()["Prediction"] == {"num_of_gameservers": demand}
    assert read.json()["fleet"] == fleet


async def test_everything_that_was_reported_is_recorded(client, bus):
    supply = {"allocated": 1, "ready": 2, "reserved": 3, "starting": 4}
    extra = {"source": "a", "seq": 7, "tickets_waiting": 3, "oldest_ticket_age_s": 1.5}
    await client.post("/demand", json={"num_of_gameservers": 5, **extra, "supply": supply})
    recorded = (await bus.newest_demand("default")).model_dump()
    assert {key: recorded[key] for key in extra} == extra
    assert recorded["supply"] == supply
    assert recorded["observed_at"] == NOW
    read = (await client.get("/demand")).json()
    assert (read["tickets_waiting"], read["supply"]) == (3, supply)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "JSON"),
        (b"84", "body: Input should be an object"),
        (b"{", "JSON"),
        (b'"many"', "body: Input should be an object"),
        (b"{}", "num_of_gameservers or ccu"),
        (b'{"num_of_gameservers": NaN}', "num_of_gameservers: Input should be a finite number"),
        (b'{"num_of_gameservers": Infinity}', "num_of_gameservers: Input should be a finite"),
        (b'{"num_of_gameservers": 1e999}', "num_of_gameservers: Input should be a finite"),
        (b'{"num_of_gameservers": -1}', "num_of_gameservers: Input should be greater"),
        (b'{"num_of_gameservers": 1000001}', "num_of_gameservers: Input should be less"),
        (b'{"num_of_gameservers": "84"}', "num_of_gameservers: Input should be a valid number"),
        (b'{"num_of_gameservers": true}', "num_of_gameservers: Input should be a valid number"),
        (b'{"num_of_gameservers": [84]}', "num_of_gameservers: Input should be a valid number"),
        (b'{"num_of_gameservers": 1, "players": 3}', "players: there is no such field"),
        (b'{"num_of_gameservers": 1, "ccu": 3}', "not both"),
        (b'{"ccu": 3}', "players_per_server"),
        (b'{"players_per_server": 3}', "num_of_gameservers or ccu"),
        (b'{"ccu": 3, "players_per_server": 0}', "players_per_server: Input should be greater"),
        (b'{"ccu": NaN, "players_per_server": 3}', "ccu: Input should be a finite number"),
        (b'{"ccu": 1e9, "players_per_server": 1}', "at most 1000000"),
        (b'{"ccu": 1e9, "players_per_server": 1e-300}', "at most 1000000"),
        (b'{"num_of_gameservers": 1, "seq": -1}', "seq"),
        (b'{"num_of_gameservers": 1, "supply": {"ready": -1}}', "supply.ready"),
        (b'{"num_of_gameservers": 1, "supply": {"up": 1}}', "supply.up: there is no such field"),
        (b'{"num_of_gameservers": 1, "oldest_ticket_age_s": NaN}', "oldest_ticket_age_s"),
        (b'{"num_of_gameservers": 1, "fleet": "../x"}', "fleet"),
        (b'{"num_of_gameservers": 1, "idempotency_key": ""}', "idempotency_key"),
        (b'{"num_of_gameservers": 1, "observed_at": "yesterday"}', "observed_at"),
        (b'{"num_of_gameservers": 1, "observed_at": 1795381258}', "observed_at"),
        (b'{"num_of_gameservers": 1, "observed_at": "2026-11-22T20:00:00"}', "observed_at"),
        (
            b'{"num_of_gameservers": 1, "observed_at": "0001-01-01T00:00:00+14:00"}',
            "observed_at",
        ),
        (b'{"num_of_gameservers": 1, "source": "\xff"}', "JSON"),
    ],
)
async def test_what_is_no_demand_is_refused_and_not_recorded(client, bus, body, detail):
    assert_problem(await client.post("/demand", content=body, headers=JSON), 422, detail)
    assert await reports_in(bus) == 0


async def test_a_time_more_than_five_minutes_ahead_is_refused(client, bus):
    ahead = moment(timedelta(minutes=5, seconds=1))
    report = {"num_of_gameservers": 1, "observed_at": ahead}
    assert_problem(await client.post("/demand", json=report), 422, "5 minutes ahead")
    assert await reports_in(bus) == 0


async def test_an_unknown_fleet_is_404_and_names_the_known(client, bus):
    report = {"num_of_gameservers": 1, "fleet": "mars"}
    assert_problem(await client.post("/demand", json=report), 404, "use one of default, eu-west")
    for path in ("/demand", "/currsine1h", "/currsine24h"):
        assert_problem(await client.get(path, params={"fleet": "mars"}), 404, "'mars'")
    assert await reports_in(bus) == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_16_kib_is_413(client, bus, chunked):
    async def parts(size: int) -> AsyncIterator[bytes]:
        whole = b'{"num_of_gameservers": 1}'.ljust(size)
        for start in range(0, size, 1000):
            yield whole[start : start + 1000]

    async def post(size: int) -> httpx.Response:
        content = parts(size) if chunked else b'{"num_of_gameservers": 1}'.ljust(size)
        return await client.post("/demand", content=content, headers=JSON)

    assert_problem(await post(16 * 1024 + 1), 413, "16384")
    assert await reports_in(bus) == 0
    assert (await post(16 * 1024)).status_code == 202


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic s3cret", "s3cret", "Bearer", "Bearer s3cret2"]
)
async def test_without_the_token_a_report_is_401(redis_url, clock, client_of, header):
    app = create_app(
        bus=Bus.connect(redis_url), fleets=FLEETS, clock=clock, access=Access(Tokens("s3cret"))
    )
    headers = {} if header is None else {"Authorization": header}
    async with client_of(app) as client:
        answer = await client.post("/demand", json={"num_of_gameservers": 1}, headers=headers)
        assert_problem(answer, 401, "Bearer <token>")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_token_opens_reports_and_reads(redis_url, clock, client_of):
    app = create_app(
        bus=Bus.connect(redis_url), fleets=FLEETS, clock=clock, access=Access(Tokens("s3cret"))
    )
    async with client_of(app) as client:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} s3cret"}
            report = {"num_of_gameservers": 1}
            answer = await client.post("/demand", json=report, headers=headers)
            assert answer.status_code == 202
        for path in ("/demand", "/currsine1h", "/currsine24h", "/metrics"):
            assert (await client.get(path)).status_code == 401, path
            assert (await client.get(path, headers=headers)).status_code == 200, path
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200, path


async def test_a_repeated_key_changes_nothing(client, bus, clock):
    first = await client.post("/demand", json={"num_of_gameservers": 5, "idempotency_key": "a"})
    clock.now += timedelta(seconds=30)
    headers = {"Idempotency-Key": "a", "Content-Type": "application/json"}
    again = await client.post("/demand", content=b'{"num_of_gameservers": 5.0}', headers=headers)
    assert again.status_code == 202
    assert again.json() == first.json() | {"duplicate": True}
    assert (await bus.newest_demand("default")).observed_at == NOW
    assert await reports_in(bus) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"num_of_gameservers": 9},
        {"num_of_gameservers": 5, "tickets_waiting": 0},
        {"num_of_gameservers": 5, "observed_at": moment(timedelta(0))},
        {"ccu": 5, "players_per_server": 1},
    ],
)
@pytest.mark.parametrize("as_header", [False, True])
async def test_a_key_that_is_used_again_for_another_report_is_refused(
    client, bus, other, as_header
):
    first = await client.post("/demand", json={"num_of_gameservers": 5, "idempotency_key": "a"})
    if as_header:
        again = await client.post("/demand", json=other, headers={"Idempotency-Key": "a"})
    else:
        again = await client.post("/demand", json=other | {"idempotency_key": "a"})
    assert_problem(again, 422, "idempotency_key: it was used within ten minutes for another report")
    assert first.json()["id"] in again.json()["detail"]
    assert (await bus.newest_demand("default")).demand == 5
    assert await reports_in(bus) == 1


async def test_a_key_that_is_used_twice_within_one_batch(client, bus):
    reports = [{"num_of_gameservers": n, "idempotency_key": "a"} for n in (5, 5, 9)]
    answers = await asyncio.gather(*(client.post("/demand", json=report) for report in reports))
    assert sorted(answer.status_code for answer in answers) == [202, 202, 422]
    assert await reports_in(bus) == 1


async def test_a_key_counts_for_its_fleet(client):
    answers = [
        await client.post(
            "/demand", json={"num_of_gameservers": 5, "idempotency_key": "a", "fleet": fleet}
        )
        for fleet in ("default", "eu-west")
    ]
    assert [answer.json()["duplicate"] for answer in answers] == [False, False]


async def test_header_and_field_may_agree_but_not_differ(client, bus):
    report = {"num_of_gameservers": 5, "idempotency_key": "a"}
    agreed = await client.post("/demand", json=report, headers={"Idempotency-Key": "a"})
    assert agreed.status_code == 202
    differing = await client.post("/demand", json=report, headers={"Idempotency-Key": "b"})
    assert_problem(differing, 422, "differ")
    long = await client.post(
        "/demand", json={"num_of_gameservers": 5}, headers={"Idempotency-Key": "x" * 201}
    )
    assert_problem(long, 422, "1 to 200")
    assert await reports_in(bus) == 1


async def test_an_older_report_is_recorded_but_superseded(client, bus):
    older = moment(timedelta(seconds=-10))
    await client.post("/demand", json={"num_of_gameservers": 5})
    late = await client.post("/demand", json={"num_of_gameservers": 9, "observed_at": older})
    assert late.status_code == 202
    assert late.json()["superseded"] is True
    assert await reports_in(bus) == 2
    answer = await client.get("/demand")
    assert answer.json()["Prediction"] == {"num_of_gameservers": 5.0}


async def test_demand_has_an_age_and_ends(client, clock):
    assert_problem(await client.get("/demand"), 503, "no demand is known for fleet 'default'")
    await client.post("/demand", json={"num_of_gameservers": 5})
    clock.now = NOW + timedelta(seconds=TTL_S)
    assert (await client.get("/demand")).json() == {
        "Prediction": {"num_of_gameservers": 5.0},
        "fleet": "default",
        "observed_at": "2026-11-22T20:33:01Z",
        "age_s": TTL_S,
    }
    clock.now += timedelta(seconds=1)
    assert_problem(await client.get("/demand"), 503, "196 s old and valid for 195 s")


async def test_the_simulators_follow_the_clock(client, clock):
    clock.now = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
    # sin(0.2) and the middle of the arch, times the notebook's 99.
    start = (await client.get("/currsine1h")).json()
    assert start["Prediction"]["num_of_gameservers"] == pytest.approx(19.66826, abs=1e-4)
    clock.now = datetime(2026, 11, 22, 20, 28, tzinfo=UTC)
    later = (await client.get("/currsine1h")).json()
    assert later["Prediction"]["num_of_gameservers"] == pytest.approx(98.97, abs=0.1)
    assert later["observed_at"] == "2026-11-22T20:28:00Z"
    slow = []
    for hours in (0, 5):
        clock.now = datetime.fromtimestamp(36_000 * 40_000 + 3600 * hours, UTC)
        slow.append((await client.get("/currsine24h")).json()["Prediction"]["num_of_gameservers"])
    assert slow == pytest.approx([19.66826, 98.68], abs=0.1)


async def test_while_redis_is_away_reports_are_503_and_then_taken_again(
    own_redis, clock, client_of
):
    app = create_app(bus=Bus.connect(own_redis.url), fleets=FLEETS, clock=clock)
    report = {"num_of_gameservers": 5}
    async with client_of(app) as client:
        assert (await client.post("/demand", json=report)).status_code == 202
        assert (await client.get("/readyz")).status_code == 200
        own_redis.stop()
        away = await client.post("/demand", json=report)
        assert_problem(away, 503, "Redis does not answer")
        assert away.headers["retry-after"] == "1"
        assert_problem(await client.get("/demand"), 503, "Redis does not answer")
        assert_problem(await client.get("/readyz"), 503, "Redis does not answer")
        assert (await client.get("/healthz")).status_code == 200
        own_redis.start()
        assert (await client.post("/demand", json=report)).status_code == 202
        assert (await client.get("/readyz")).status_code == 200


class WatchedBus(Bus):
    """Counts the batches, and may fail them."""

    batches: list[int]
    failing = False

    async def record_demands(
        self, demands: Sequence[Demand], idempotency_keys: Sequence[IdempotencyKey | None]
    ) -> list[DemandReceipt]:
        self.batches.append(len(demands))
        if self.failing:
            raise BusAway("Redis does not answer: a test")
        if any(demand.source == "poison" for demand in demands):
            raise OverflowError("no report that anybody has foreseen")
        return await super().record_demands(demands, idempotency_keys)


@pytest.fixture
def watched(redis_url) -> WatchedBus:
    bus = WatchedBus.connect(redis_url)
    assert isinstance(bus, WatchedBus)
    bus.batches = []
    return bus


async def test_reports_of_one_tick_go_together_and_each_is_told(watched, clock, client_of):
    app = create_app(bus=watched, fleets=FLEETS, clock=clock)
    async with client_of(app) as client:
        answers = await asyncio.gather(
            *(client.post("/demand", json={"num_of_gameservers": n}) for n in range(600))
        )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 600
        assert sum(watched.batches) == 600
        assert len(watched.batches) < 60
        assert max(watched.batches) <= 500


async def test_a_batch_that_fails_is_told_to_each_caller(watched, clock, client_of):
    app = create_app(bus=watched, fleets=FLEETS, clock=clock)
    watched.failing = True
    async with client_of(app) as client:
        answers = await asyncio.gather(
            *(client.post("/demand", json={"num_of_gameservers": n}) for n in range(20))
        )
        for answer in answers:
            assert_problem(answer, 503, "Redis does not answer: a test")
        watched.failing = False
        assert (await client.post("/demand", json={"num_of_gameservers": 1})).status_code == 202


async def test_of_a_batch_that_fails_only_the_culprit_is_told(watched, clock, client_of):
    app = create_app(bus=watched, fleets=FLEETS, clock=clock)
    reports = [{"num_of_gameservers": n, "source": f"lobby {n}"} for n in range(20)]
    reports[7]["source"] = "poison"
    async with client_of(app) as client:
        answers = await asyncio.gather(*(client.post("/demand", json=each) for each in reports))
        statuses = [answer.status_code for answer in answers]
        assert statuses == [202] * 7 + [500] + [202] * 12
        assert await reports_in(watched) == 19


async def test_a_caller_that_leaves_does_not_spoil_the_batch(watched, clock):
    from services.matchmaking.intake import Intake

    intake = Intake(watched)
    demand = Demand(fleet="default", demand=1, observed_at=NOW)
    leaving, staying = (asyncio.create_task(intake.record(demand, None)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).duplicate is False
    assert watched.batches == [2]
    await watched.close()


async def test_requests_are_counted_by_route_and_status(client):
    await client.post("/demand", json={"num_of_gameservers": 1})
    await client.post("/demand", json={})
    await client.get("/nowhere")
    text = (await client.get("/metrics")).text
    counted = 'autopilot_http_requests_total{method="%s",route="%s",status="%d"} 1.0'
    assert counted % ("POST", "/demand", 202) in text
    assert counted % ("POST", "/demand", 422) in text
    assert counted % ("GET", "", 404) in text
