"""Fixtures that every layer shares: a real Redis, and HTTP clients of apps."""

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import redis
from fastapi import FastAPI
from hypothesis import settings

from services.cli.supervision import redis_command
from shared.bus import wait_for_redis
from shared.core.parameters import FleetParameters
from shared.messages import Champion, PolicyManifest, utc_now
from shared.policy_store import LITERT_MODEL, PolicyStore

# A busy machine is no failure.
settings.register_profile("tests", deadline=None, max_examples=50)
settings.load_profile("tests")

START_SECONDS = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class RedisServer:
    """A real Redis on a free port, which a test may stop and start again; it keeps its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(redis_command(self.port, self._folder))
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
        parameters = FleetParameters()
        now = utc_now()
        draft = PolicyManifest(
            **{
                "version": version,
                "fleet": fleet,
                "created_at": now,
                "observation_fields": parameters.observation_fields,
                "history_len": parameters.history_len,
                "min_servers": parameters.min_servers,
                "max_servers": parameters.max_servers,
                "action_factor": parameters.action_factor,
                "scores": {"cost_per_step": 12.5},
                "trained_on_steps": 128,
                "seed": 0,
                "sha256": {},
                **manifest,
            }
        )
        with store.writing(fleet, version) as folder:
            shutil.copy(MEAN_MODEL, folder / LITERT_MODEL)
            store.publish(draft, folder)
        return store.set_champion(fleet, version, now)

    return publish
