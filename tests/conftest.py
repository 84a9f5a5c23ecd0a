"""Fixtures that every layer shares: a real Redis, and HTTP clients of apps."""

import csv
import json
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx
import pytest
import redis
from fastapi import FastAPI
from hypothesis import settings

from services.cli.embedded_redis import redis_command
from services.trainer.context import Context, Stop
from shared import redaction
from shared.bus import Bus, TrainingQueue, wait_for_redis
from shared.core.guards import GuardEffect
from shared.core.parameters import FleetParameters
from shared.messages import (
    Champion,
    Decision,
    Demand,
    Explanation,
    FleetRecord,
    PolicyManifest,
    RecordedStep,
    TrainingOutcome,
    Transition,
    utc_now,
)
from shared.policies.store import LITERT_MODEL, PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.processes import run

# A busy machine is no failure.
settings.register_profile("tests", deadline=None, max_examples=50)
settings.load_profile("tests")

START_SECONDS = 10.0
REDIS_PASSWORD = "of-the-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no process is left with it at the end."""
    learning = {item.path for item in items if "ray_running" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (item.path not in learning, "platform" not in item.path.parts))


@pytest.fixture(autouse=True)
def secrets_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test keeps as a secret is no secret in the next: it may be a word there."""
    monkeypatch.setattr(redaction._Known, "forms", redaction._Known.forms)
    monkeypatch.setattr(redaction._Known, "pattern", redaction._Known.pattern)


@pytest.fixture(autouse=True)
def log_handlers_of_this_test() -> Iterator[None]:
    """A command that runs in a test's process logs to that test's streams, which end with it."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class RedisServer:
    """A real Redis on a free port, which a test may stop and start again; it keeps its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://:{REDIS_PASSWORD}@127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(redis_command(self.url, self._folder))
        wait_for_redis(self.url, START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of the whole run; use `redis_url`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    """The platform's way to that Redis."""
    bus = Bus.connect(redis_url)
    yield bus
    await bus.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """That Redis itself, to look at or to put in what no service would."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis_url: str) -> Iterator[TrainingQueue]:
    """Training jobs in that Redis."""
    queue = TrainingQueue(redis_url)
    yield queue
    queue.connection.close()


@pytest.fixture(scope="session")
def ray_running() -> Iterator[None]:
    """The Ray of the whole run, for tests that learn in this process."""
    from shared.learning.extras import quiet_libraries

    quiet_libraries()
    from shared.learning.ppo.ray_session import ray_session

    with ray_session():
        yield


@pytest.fixture
def trainer_context(redis_url: str, tmp_path: Path) -> Context:
    """What training jobs in this process work with; `replace` what is to be otherwise."""
    return Context(
        redis_url=redis_url,
        store=PolicyStore.at(tmp_path),
        fleets=Fleets({"default": FleetSettings(time_total_s=1)}),
        save_model=False,
        seed=0,
        clock=utc_now,
        stop=Stop(),
    )


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    server = RedisServer(tmp_path_factory.mktemp("own-redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """Finds a port that nothing listens on."""
    return free_port


STEP = timedelta(minutes=10)
"""From row to row of a trace."""


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Path]:
    """Writes a trace of these demands."""

    def write(demands: Iterable[float], name: str = "trace.csv") -> Path:
        start = datetime(2024, 6, 12, tzinfo=UTC)
        path = tmp_path / name
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("timestamp", "demand"))
            rows.writerows(((start + n * STEP).isoformat(), d) for n, d in enumerate(demands))
        return path

    return write


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Any]:
    """The AWS of the whole run; use `moto`."""
    from tests.aws import Moto

    moto = Moto()
    yield moto
    moto.stop()


@pytest.fixture
def moto(moto_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An AWS that its standard variables point at; started, and empty."""
    moto = moto_server
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    moto.start()
    moto.forget()
    return moto


@pytest.fixture
def bucket(moto: Any) -> str:
    """An empty bucket of `moto`."""
    import boto3

    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="policies")
    client.close()
    return "policies"


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> PolicyStore:
    """An empty policy store: in a folder, and again in S3."""
    if request.param == "folder":
        return PolicyStore.at(tmp_path / "policies")
    return PolicyStore.at(f"s3://{request.getfixturevalue('bucket')}/all/policies")


Autopilot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def autopilot(tmp_path: Path) -> Autopilot:
    """Runs a command in a folder of its own, with these variables beside those that are set."""

    def autopilot(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run("services.cli", *words, env=os.environ | variables, cwd=tmp_path)

    return autopilot


@pytest.fixture
def worker_environment(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> dict[str, str]:
    """Of an environment worker as a process, with the fleets and the pace of the test's module."""
    fleets, step_seconds = request.module.FLEETS, request.module.STEP_SECONDS
    (tmp_path / "fleets.toml").write_text("".join(f"[{fleet}]\n" for fleet in fleets))
    return {
        **os.environ,
        "AUTOPILOT_REDIS_URL": redis_url,
        "AUTOPILOT_FLEETS": str(tmp_path / "fleets.toml"),
        "AUTOPILOT_GS_INVENTORY_URL": "local",
        "AUTOPILOT_LEARNING_FREQ": str(step_seconds),
        "AUTOPILOT_POLICY_STORE": str(tmp_path / "policies"),
    }


class ClientOf(Protocol):
    def __call__(self, app: FastAPI) -> AbstractAsyncContextManager[httpx.AsyncClient]: ...


@pytest.fixture
def client_of() -> ClientOf:
    """A client of an app in this process, whose lifespan runs meanwhile."""

    @asynccontextmanager
    async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            yield client

    return client


MEAN_MODEL = Path(__file__).with_name("data") / "mean10.tflite"
"""Maps 10 numbers to their mean over 100; data/make_mean10.py makes it."""


class PublishPolicy(Protocol):
    def __call__(
        self, store: PolicyStore, version: str, fleet: str = "default", **manifest: Any
    ) -> Champion: ...


@pytest.fixture
def publish_policy() -> PublishPolicy:
    """Publishes the mean as a policy version and makes it the store's champion."""

    def publish(
        store: PolicyStore, version: str, fleet: str = "default", **manifest: Any
    ) -> Champion:
        now = utc_now()
        trained = {"scores": {"cost_per_step": 12.5}, "trained_on_steps": 128}
        named = {"version": version, "fleet": fleet, "created_at": now}
        draft = PolicyManifest.draft(FleetParameters(), **named, **(trained | manifest))
        with store.writing(fleet, version) as folder:
            shutil.copy(MEAN_MODEL, folder / LITERT_MODEL)
            store.publish(draft, folder)
        return store.set_champion(fleet, version, now)

    return publish


def poisoned(message: Demand | Transition) -> str:
    """A message with a count in it that no float holds, as a release without bounds stored it."""
    supply = {"allocated": 10**400, "ready": 1}
    return json.dumps(json.loads(message.model_dump_json()) | {"supply": supply})


NOW = datetime(2026, 11, 22, 20, 33, 1, tzinfo=UTC)
TEN = (10.0,) * 10


class Step(NamedTuple):
    """What the environment commits for a step, in the order of `Bus.commit_step`."""

    record: FleetRecord
    recorded: RecordedStep
    transition: Transition
    decision: Decision


def a_step(
    step: int = 1,
    fleet: str = "default",
    servers: float = 50.0,
    at: datetime = NOW,
    **transition: Any,
) -> Step:
    """A step that needed `servers` and asked for as many; changes of its transition go on."""
    made = Transition(
        **{
            "fleet": fleet,
            "step": step,
            "at": at,
            "observation": TEN,
            "action": 0.5,
            "target": servers,
            "demand": servers,
            "reported_demand": servers,
            "allocation": 10.0,
            "reward": -1.0,
            "next_observation": TEN,
            "policy_version": "v1",
            **transition,
        }
    )
    reported, version = made.reported_demand, made.policy_version
    return Step(
        record=FleetRecord(
            fleet=fleet,
            step=step,
            due_at=at,
            demands=TEN[:5],
            targets=TEN[:5],
            reported_demand=reported,
            next_action=made.action,
            next_policy_version=version,
            untrained_steps=step,
        ),
        recorded=RecordedStep(step, at.timestamp(), reported, True, 0),
        transition=made,
        decision=a_decision(
            fleet=fleet,
            step=step + 1,
            target=made.target,
            allocation=made.allocation,
            curr_demand=reported,
            action=made.action,
            observation=TEN,
            policy_version=version,
            decided_at=at,
        ),
    )


def a_decision(**changes: Any) -> Decision:
    """83.2 servers for a demand of 79.5, by v1."""
    return Decision(
        **{
            "fleet": "default",
            "step": 7,
            "target": 83.2,
            "allocation": 80,
            "curr_demand": 79.5,
            "action": 0.832,
            "observation": (50.5,) * 10,
            "policy_version": "v1",
            "decided_at": NOW,
            **changes,
        }
    )


def an_explanation(**changes: Any) -> Explanation:
    """Of a decision for 50 servers, by v1."""
    return Explanation(
        **{
            "fleet": "default",
            "step": 7,
            "decided_at": NOW,
            "policy_version": "v1",
            "observation": {"demand[-1]": 50.0, "day_ago[+0]": None},
            "demands": (50.0,) * 5,
            "action": 0.5,
            "ask": 50.0,
            "reported_demand": 50.0,
            "told_before": None,
            "asks": (),
            "floor": 0.0,
            "scheduled": 0.0,
            "moves": (
                GuardEffect("min_servers", 50.0, 50.0),
                GuardEffect("max_servers", 50.0, 50.0),
            ),
            "target": 50.0,
            **changes,
        }
    )


def a_verdict(**changes: Any) -> TrainingOutcome:
    """A job that has learnt v2, which serves instead of v1."""
    return TrainingOutcome(
        **{
            "fleet": "default",
            "at": NOW,
            "outcome": "published",
            "version": "v2",
            "seconds": 5.0,
            "environment_steps": 1_000,
            **changes,
        }
    )
