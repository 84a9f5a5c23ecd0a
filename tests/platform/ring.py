"""The ring in one process: real Redis, real HTTP servers, real worker; only the trainer is out."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from services.environment.demand_source import HttpDemand
from services.environment.fleet_loop import FleetLoop
from services.environment.supply import Supplies
from services.environment.worker import step_fleets
from services.matchmaking.app import create_app as create_matchmaking
from services.prediction.app import create_app as create_prediction
from shared.bus import Bus, TrainingQueue
from shared.messages import utc_now
from shared.policies.champions import Champions
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import RedisServer, free_port
from tests.eventually import eventually_async

STEP_SECONDS = 0.05


@dataclass
class Ring:
    """The running platform, as its users see it."""

    redis: RedisServer
    store: PolicyStore
    bus: Bus
    queue: TrainingQueue
    http: httpx.AsyncClient
    matchmaking: str
    prediction: str

    async def report(self, servers: float, **fields: Any) -> httpx.Response:
        body = {"num_of_gameservers": servers, **fields}
        return await self.http.post(f"{self.matchmaking}/demand", json=body)

    async def predict(self) -> httpx.Response:
        return await self.http.get(f"{self.prediction}/prediction")

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first answer of `GET /prediction` for which `holds`; fails after a while."""
        response = await eventually_async(
            self.predict,
            "such an answer",
            holds=lambda response: response.is_success and holds(response.json()),
        )
        return dict(response.json())

    async def committed_steps(self) -> list[int]:
        return [recorded.step for recorded in await self.bus.recorded_steps("default")]

    async def steps(self, number: int) -> None:
        """Return once so many steps are committed; fails after a while."""
        await eventually_async(
            self.committed_steps, f"{number} steps", holds=lambda steps: len(steps) >= number
        )

    async def further(self, number: int) -> None:
        """Return once so many more steps are committed than now."""
        await self.steps(len(await self.committed_steps()) + number)

    @contextlib.asynccontextmanager
    async def demand(self, base: float = 50.0) -> AsyncIterator[None]:
        """A matchmaker that reports a slow wave twice a step while the block runs."""

        async def play() -> None:
            number = 0
            while True:
                number += 1
                await self.report(base + 5 * math.sin(number / 20))
                await asyncio.sleep(STEP_SECONDS / 2)

        task = asyncio.create_task(play())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def settings(**changes: Any) -> FleetSettings:
    """A fleet that steps twenty times a second; times live long enough for a busy machine."""
    pace = {"learning_freq": STEP_SECONDS, "demand_ttl": 2.0, "decision_ttl": 2.0}
    return FleetSettings(**{**pace, "train_batch_size": 100_000, **changes})


@contextlib.asynccontextmanager
async def running(folder: Path, fleet: FleetSettings) -> AsyncIterator[Ring]:
    """A ring over an empty Redis and an empty policy store, for one fleet, `default`."""
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis")
    redis.start()
    fleets = Fleets({"default": fleet})
    store = PolicyStore.at(folder / "policies")
    queue = TrainingQueue(redis.url)
    stop = asyncio.Event()
    try:
        async with contextlib.AsyncExitStack() as stack:
            matchmaking = await stack.enter_async_context(
                _served(
                    create_matchmaking(bus=Bus.connect(redis.url), fleets=fleets, clock=utc_now)
                )
            )
            prediction = await stack.enter_async_context(
                _served(
                    create_prediction(
                        bus=Bus.connect(redis.url), fleets=fleets, store=store, clock=utc_now
                    )
                )
            )
            http = await stack.enter_async_context(httpx.AsyncClient())
            bus = Bus.connect(redis.url)
            stack.push_async_callback(bus.close)
            source = HttpDemand(
                http, asyncio.Semaphore(4), f"{matchmaking}/demand", "default", fleet.learning_freq
            )
            champions = Champions(store, fleets)
            supplies = Supplies(bus, fleets.names, fleet.learning_freq)
            loop = FleetLoop(
                "default", fleet, 0.0, source, champions, bus, queue, utc_now, supplies=supplies
            )
            worker = asyncio.create_task(step_fleets([loop], champions, bus, stop))
            yield Ring(redis, store, bus, queue, http, matchmaking, prediction)
            stop.set()
            await worker
    finally:
        queue.connection.close()
        redis.stop()


@contextlib.asynccontextmanager
async def _served(app: Any) -> AsyncIterator[str]:
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task
