"""Whatever JSON comes, and whatever is around it: an answer, and never that the service failed."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.matchmaking.app import create_app as matchmaking
from services.prediction.app import create_app as prediction
from shared.bus import DECISIONS, Bus
from shared.messages import utc_now
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import RedisServer, a_decision

FLEETS = Fleets({"default": FleetSettings(floor_at_allocated=True, decision_ttl=86_400)})

TEXT = st.text(max_size=30).map(json.dumps) | st.sampled_from(
    ['"\\ud800"', '"\\u0000"', '"default"', '"9999-12-31T23:59:59-05:00"', f'"{"x" * 300}"']
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(300, 4_500).map(lambda digits: "9" * digits),
    st.floats().map(json.dumps),
    st.sampled_from(["1e400", "-1e400", "-0.0", "1e-400", "0", "1", "1000000", "1000001"]),
)
SCALARS = st.one_of(st.sampled_from(["null", "true", "false"]), NUMBERS, TEXT)


def an_array(items: list[str]) -> str:
    return f"[{','.join(items)}]"


def an_object(fields: dict[str, str]) -> str:
    return f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in fields.items())}}}"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(an_array),
        st.dictionaries(st.text(max_size=8), inner, max_size=3).map(an_object),
    ),
    max_leaves=8,
) | st.integers(1, 3_000).map(nested)


def with_fields(*names: str) -> st.SearchStrategy[str]:
    """An object with any of these fields, holding anything."""
    return st.dictionaries(st.sampled_from(names), ANYTHING, max_size=len(names)).map(an_object)


SUPPLIES = with_fields("allocated", "ready", "reserved", "starting")
REPORTS = st.builds(
    lambda good, fields: an_object(good | fields),
    st.sampled_from([{}, {"num_of_gameservers": "84"}, {"ccu": "10", "players_per_server": "2"}]),
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(
                (
                    "fleet",
                    "observed_at",
                    "source",
                    "seq",
                    "idempotency_key",
                    "tickets_waiting",
                    "oldest_ticket_age_s",
                    "players_per_server",
                    "more",
                ),
                ANYTHING,
            ),
            "supply": SUPPLIES | ANYTHING,
        },
    ),
)
COUNTS = ("replicas", "readyReplicas", "allocatedReplicas")
STATUSES = st.builds(
    lambda fields: an_object({**dict.fromkeys(COUNTS, "7"), **fields}),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys((*COUNTS, "reservedReplicas", "players"), ANYTHING)
    ),
)
REVIEWS = st.builds(
    lambda fields, others: an_object(
        {"request": an_object({"uid": '"u"', "name": '"default"', **fields}), **others}
    ),
    st.fixed_dictionaries(
        {"status": STATUSES},
        optional=dict.fromkeys(
            ("uid", "name", "namespace", "annotations", "labels", "more"), ANYTHING
        ),
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("response", "more"), ANYTHING)),
)
QUERIES = st.none() | st.text(max_size=40) | st.just("x" * 60_000)
KEYS = st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=220)


class Services:
    """Both services, and an event loop that they stay in from example to example."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._end = contextlib.AsyncExitStack()
        self._runner.run(self._open(redis_url, folder))

    async def _open(self, redis_url: str, folder: Path) -> None:
        store = PolicyStore.at(folder)
        apps = {
            "/demand": matchmaking(bus=Bus.connect(redis_url), fleets=FLEETS, clock=utc_now),
            "/agones/scale": prediction(
                bus=Bus.connect(redis_url), fleets=FLEETS, store=store, clock=utc_now
            ),
        }
        bus = Bus.connect(redis_url)
        await bus.publish(DECISIONS, "default", a_decision(decided_at=utc_now()))
        await bus.close()
        self._clients = {}
        for path, app in apps.items():
            await self._end.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app, raise_app_exceptions=False),
                base_url="http://service",
                headers={"content-type": "application/json"},
            )
            self._clients[path] = await self._end.enter_async_context(client)

    def post(
        self, path: str, body: str, fleet: str | None, headers: dict[str, str]
    ) -> httpx.Response:
        params = {} if fleet is None else {"fleet": fleet}
        call = self._clients[path].post(path, content=body, params=params, headers=headers)
        return self._runner.run(call)

    def close(self) -> None:
        self._runner.run(self._end.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def services(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    services = Services(redis_server.url, tmp_path_factory.mktemp("policies"))
    yield services
    services.close()


def check(answer: httpx.Response, *good: int) -> None:
    assert answer.status_code in (*good, 404, 413, 422, 503), answer.text
    assert answer.json()
    if answer.status_code not in good:
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) < 10_000
    if answer.status_code == 503:
        assert "fallback" in answer.json()["detail"], answer.text


@settings(max_examples=150)
@given(REPORTS | ANYTHING, KEYS)
def test_no_report_makes_the_service_fail(services, body, key):
    headers = {} if key is None else {"idempotency-key": key}
    check(services.post("/demand", body, None, headers), 202)


@settings(max_examples=150)
@given(REVIEWS | ANYTHING, QUERIES)
def test_no_review_makes_the_service_fail(services, body, fleet):
    check(services.post("/agones/scale", body, fleet, {}), 200)
