"""Both OpenAPI documents, tried by schemathesis over HTTP, with all its checks.

The services know a demand and a decision, so no 503 is due: every 5xx is a failure.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import schemathesis

# Loaded before any service runs in a thread: pytest parses it, and CPython 3.11 can't parse in two
# threads at once (python/cpython#106905).
import schemathesis.specs.openapi.schemas
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from services.matchmaking.app import create_app as create_matchmaking
from services.prediction.app import create_app as create_prediction
from shared.bus import Bus
from shared.http.app import HttpService
from shared.messages import Demand, utc_now
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import a_decision, a_step, an_explanation
from tests.eventually import eventually

EXAMPLES = [25, pytest.param(100, marks=pytest.mark.slow)]
"""Of each operation."""
BEYOND_THE_DOCUMENT = [positive_data_acceptance]
"""Demand is said in one of two ways, and a fleet's settings make the length of an observation: a
body may match its schema and still be refused."""
START_SECONDS = 10.0
FLEETS = Fleets({"default": FleetSettings(demand_ttl=3600, decision_ttl=3600)})
bounded = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


OPERATIONS = {
    ("matchmaking", GenerationMode.POSITIVE): 7,
    ("matchmaking", GenerationMode.NEGATIVE): 1,
    ("prediction", GenerationMode.POSITIVE): 12,
    ("prediction", GenerationMode.NEGATIVE): 3,
}


@contextmanager
def serving(app: HttpService) -> Iterator[str]:
    """A real server of an app, in a thread, and its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def seed(redis_url: str) -> None:
    bus = Bus.connect(redis_url)
    now = utc_now()
    await bus.record_demands([Demand(fleet="default", demand=79.5, observed_at=now)], [None])
    made = a_step(at=now)._replace(decision=a_decision(decided_at=now))
    await bus.commit_step(*made, explanation=an_explanation(decided_at=now))
    await bus.close()


@pytest.fixture
def matchmaking(redis_url) -> Iterator[Any]:
    asyncio.run(seed(redis_url))
    app = create_matchmaking(bus=Bus.connect(redis_url), fleets=FLEETS, clock=utc_now)
    with serving(app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json", wait_for_schema=START_SECONDS)


@pytest.fixture
def prediction(redis_url, tmp_path, publish_policy) -> Iterator[Any]:
    asyncio.run(seed(redis_url))
    store = PolicyStore.at(tmp_path)
    publish_policy(store, "v1")
    bus = Bus.connect(redis_url)
    app = create_prediction(bus=bus, fleets=FLEETS, store=store, clock=utc_now)
    with serving(app) as url:
        eventually(
            lambda: httpx.get(f"{url}/prediction"),
            "the decision is known",
            holds=lambda answer: answer.is_success,
        )
        yield schemathesis.openapi.from_url(f"{url}/openapi.json", wait_for_schema=START_SECONDS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("service", ["matchmaking", "prediction"])
@pytest.mark.parametrize("examples", EXAMPLES)
def test_every_operation_keeps_to_its_document(request, service, mode, examples):
    schema = request.getfixturevalue(service)
    tried = 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        if mode.is_negative and not operation.body:
            continue  # any text may name a fleet, so nothing else can be wrong

        @settings(bounded, max_examples=examples)
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps_to_its_document(case: schemathesis.Case) -> None:
            case.call_and_validate(excluded_checks=BEYOND_THE_DOCUMENT)

        keeps_to_its_document()
        tried += 1
    assert tried == OPERATIONS[service, mode]
