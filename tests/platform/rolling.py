"""Every service but the trainer as a process, restarted in turn while callers are answered."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import free_port
from tests.eventually import PATIENCE_SECONDS, eventually_async
from tests.platform.workers import Worker

SERVICES = ("matchmaking", "prediction", "metrics")
WORKERS = ("first worker", "second worker")
"""Two, so that one is always there."""


class Front:
    """An address that stays while the process behind it changes, as a Kubernetes Service is."""

    def __init__(self) -> None:
        self.port = free_port()
        self.behind = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            async with _closed(writer):
                with contextlib.suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", self.behind)
                    async with _closed(back):
                        await asyncio.gather(_pump(reader, back), _pump(there, writer))

        server = await asyncio.start_server(connected, "127.0.0.1", self.port)
        yield
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@contextlib.asynccontextmanager
async def _closed(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(65_536):
            writer.write(content)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def _meanwhile(
    work: Callable[[], Coroutine[Any, Any, None]], pause_s: float
) -> AsyncIterator[None]:
    """Again and again while the block runs; what is under way at its end is done whole."""
    ended = asyncio.Event()

    async def again() -> None:
        while not ended.is_set():
            await work()
            await asyncio.sleep(pause_s)

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        ended.set()
        await task


async def _ended(process: Worker | None) -> None:
    """A process is asked to end, and does so well; meanwhile its callers' connections go on."""
    if process is not None:
        assert await asyncio.to_thread(process.end, PATIENCE_SECONDS) == 0


class Platform:
    """The running services, and what callers were told."""

    def __init__(self, environment: dict[str, str], folder: Path, fleets: Sequence[str]) -> None:
        self._environment = environment
        self._folder = folder
        self._fleets = fleets
        self._fronts = {service: Front() for service in SERVICES}
        self._running: dict[str, Worker] = {}
        self._started = 0
        self.told: list[dict[str, Any]] = []
        """Answers of `GET /prediction`, in their order."""
        self.not_told: list[str] = []
        """What was no answer."""

    def url(self, service: str, path: str) -> str:
        return f"http://127.0.0.1:{self._fronts[service].port}{path}"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """The addresses while the block runs; whatever was started behind them ends with it."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                for front in self._fronts.values():
                    await stack.enter_async_context(front.listening())
                yield
        finally:
            for process in self._running.values():
                process.kill()

    @contextlib.asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[None]:
        """The services, with these settings, while the block runs."""
        async with self.listening():
            for service in SERVICES:
                await self._replace(service, self._paths(service), settings)
            for worker in WORKERS:
                await self._replace_worker(worker, settings)
            yield

    async def restart(self, **settings: Any) -> None:
        """Each in turn, with these settings: a rolling restart."""
        for worker in WORKERS:
            await self._replace_worker(worker, settings)
        for service in SERVICES:
            await self._replace(service, self._paths(service), settings)

    async def replace_services(self, code: Path | None, **settings: Any) -> None:
        """All but the workers at once, by those of a release's code (this tree's without)."""
        replacing = (
            self._replace(service, self._paths(service), settings, code) for service in SERVICES
        )
        await asyncio.gather(*replacing)

    async def start_worker(self, name: str, code: Path | None, **settings: Any) -> None:
        """One more of a release's code (this tree's without), which holds a fleet then."""
        new = self._running[name] = self._start("environment", settings, code)

        async def holds_a_fleet() -> bool:
            return new.ready

        await eventually_async(holds_a_fleet, f"the {name} holds a fleet")

    async def end_worker(self, name: str) -> None:
        """Its fleets are for the others."""
        await _ended(self._running.pop(name, None))

    def _paths(self, service: str) -> list[str]:
        """What a process has to answer before callers come to it instead of another."""
        if service == "prediction" and service in self._running:
            return [f"/prediction?fleet={fleet}" for fleet in self._fleets]
        return ["/readyz"]

    async def _replace(
        self,
        service: str,
        paths: Sequence[str],
        settings: dict[str, Any],
        code: Path | None = None,
    ) -> None:
        """The new process answers, then callers come to it, then the old one ends."""
        port = free_port()
        new = self._start(service, settings | {f"{service}_port": port}, code)

        async def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                    return all([(await client.get(path)).is_success for path in paths])
            return False

        await eventually_async(answers, f"{service} answers")
        self._fronts[service].behind = port
        old = self._running.pop(service, None)
        self._running[service] = new
        await _ended(old)

    async def _replace_worker(self, name: str, settings: dict[str, Any]) -> None:
        """The old one ends, the other takes its fleets, then the new one takes some over."""
        await self.end_worker(name)
        await self.start_worker(name, None, **settings)

    def _start(self, service: str, settings: dict[str, Any], code: Path | None = None) -> Worker:
        self._started += 1
        demand = {"gs_inventory_url": self.url("matchmaking", "/demand?fleet={fleet}")}
        variables = {f"AUTOPILOT_{k.upper()}": str(v) for k, v in (demand | settings).items()}
        log = self._folder / f"{self._started}-{service}.log"
        return Worker(self._environment | variables, log, f"services.{service}", code)

    @contextlib.asynccontextmanager
    async def reported(self, demand: float) -> AsyncIterator[None]:
        """A matchmaker reports every fleet's demand while the block runs."""

        async def report() -> None:
            for fleet in self._fleets:
                body = {"fleet": fleet, "num_of_gameservers": demand}
                with contextlib.suppress(httpx.TransportError):
                    async with httpx.AsyncClient() as client:
                        await client.post(self.url("matchmaking", "/demand"), json=body)

        async with _meanwhile(report, 0.3):
            yield

    @contextlib.asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """A lobby asks of every fleet, on a new connection each time, while the block runs."""

        async def ask() -> None:
            for fleet in self._fleets:
                try:
                    async with httpx.AsyncClient() as client:
                        url = self.url("prediction", f"/prediction?fleet={fleet}")
                        answer = await client.get(url)
                except httpx.TransportError as error:
                    self.not_told.append(repr(error))
                else:
                    if answer.is_success:
                        self.told.append(answer.json())
                    else:
                        self.not_told.append(answer.text)

        async with _meanwhile(ask, 0.1):
            yield

    async def metrics(self, service: str) -> str:
        """Of a service that serves them, for Prometheus."""
        async with httpx.AsyncClient() as client:
            return (await client.get(self.url(service, "/metrics"))).text
