"""Environment workers, killed, paused, ended and started: no step is lost, doubled or late."""

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from services.environment.worker import lease_seconds
from shared.bus import Bus
from shared.messages import Transition
from tests.eventually import PATIENCE_SECONDS, eventually, eventually_async
from tests.platform.stepping import steps_further
from tests.platform.workers import Audit, Worker, owners
from tests.processes import Process

SEED = 5
CHAOS_SECONDS = 120.0
WORKERS = 3


@dataclass
class Chaos:
    """Three places for workers, and what happens to those in them."""

    environment: dict[str, str]
    folder: Path
    fleets: tuple[str, ...]
    step_seconds: float
    """A worker that dies may be followed by another: even after three, two steps are not over."""
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    every: list[Worker] = field(default_factory=list)
    running: list[Worker] = field(default_factory=list)
    paused: list[tuple[float, Worker]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def pause_seconds(self) -> float:
        """At least: others have taken the fleets by then."""
        return 2 * lease_seconds(self.step_seconds)

    def start(self) -> None:
        worker = Worker(self.environment, self.folder / f"worker-{len(self.every)}.log")
        self.every.append(worker)
        self.running.append(worker)

    def kill(self) -> None:
        self._taken().kill()

    def end(self) -> None:
        assert self._taken().end(PATIENCE_SECONDS) == 0

    def pause(self) -> None:
        worker = self._taken()
        worker.pause()
        self.paused.append((time.monotonic(), worker))

    def wake(self) -> None:
        _, worker = self.paused.pop(0)
        worker.wake()
        self.running.append(worker)

    def _taken(self) -> Worker:
        worker = self.chance.choice([worker for worker in self.running if worker.ready])
        self.running.remove(worker)
        return worker

    def do(self, what: str) -> None:
        self.done[what] += 1
        getattr(self, what)()

    def something(self) -> None:
        """What may happen and has happened least; somebody always goes on."""
        may: list[str] = []
        if sum(worker.ready for worker in self.running) > 1:
            may += ["kill", "pause", "end"]
        if len(self.running) + len(self.paused) < WORKERS:
            may.append("start")
        if self.paused and time.monotonic() - self.paused[0][0] > self.pause_seconds:
            may.append("wake")
        if may:
            self.chance.shuffle(may)
            self.do(min(may, key=self.done.__getitem__))

    async def rage(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self.chance.uniform(2, 7))
            self.something()

    async def all_are_there(self, bus: Bus) -> None:
        """Everybody is awake, everywhere, and holds an equal share."""
        while self.paused:
            self.wake()
        while len(self.running) < WORKERS:
            self.start()
        await self.shared_by(bus, WORKERS)

    async def shared_by(self, bus: Bus, workers: int) -> None:
        """So many workers hold all fleets, in equal shares."""
        shares = [len(self.fleets) // workers] * workers

        async def held() -> list[int]:
            return sorted(len(fleets) for fleets in (await owners(bus)).values())

        await eventually_async(held, f"shares of {shares}", holds=lambda found: found == shares)
        await eventually_async(
            lambda: all(worker.ready for worker in self.running), "each says that it holds fleets"
        )


@pytest.fixture
def chaos_of(unused_port, redis_url, tmp_path) -> Iterator[Callable[[int, float], Chaos]]:
    """Three places for workers that share so many fleets, of steps of so many seconds.

    A matchmaking service is the demand source of every second fleet, the others have their own.
    """
    port = unused_port()
    matchmaker = f"http://127.0.0.1:{port}/currsine1h?fleet={{fleet}}"
    processes: list[Process] = []
    made: list[Chaos] = []

    def chaos(number: int, step_seconds: float) -> Chaos:
        fleets = tuple(f"fleet-{index}" for index in range(number))
        sources = zip(fleets, itertools.cycle([matchmaker, "local"]), strict=False)
        tables = [f'[{fleet}]\ngs_inventory_url = "{source}"\n' for fleet, source in sources]
        (tmp_path / "fleets.toml").write_text("".join(tables))
        variables = {
            "AUTOPILOT_REDIS_URL": redis_url,
            "AUTOPILOT_FLEETS": str(tmp_path / "fleets.toml"),
            "AUTOPILOT_LEARNING_FREQ": str(step_seconds),
            "AUTOPILOT_POLICY_STORE": str(tmp_path / "policies"),
        }
        environment = os.environ | variables
        own = {"AUTOPILOT_MATCHMAKING_PORT": str(port)}
        processes.append(Process("services.matchmaking", env=environment | own))
        eventually(
            lambda: httpx.get(matchmaker.format(fleet=fleets[0])),
            "the matchmaker answers",
            holds=lambda answer: answer.is_success,
            not_yet=(httpx.TransportError,),
        )
        made.append(Chaos(environment, tmp_path, fleets, step_seconds))
        return made[-1]

    yield chaos
    for process in (*processes, *(worker for chaos in made for worker in chaos.every)):
        process.kill()


async def now(bus: Bus) -> float:
    seconds, micros = await bus._client.time()
    return float(seconds + micros / 1e6)


async def committed(bus: Bus, fleets: Sequence[str]) -> dict[str, list[tuple[float, Transition]]]:
    """All steps by fleet, in the order of their commits, with Redis's time of each."""
    await bus.open_group("test")
    found: dict[str, list[tuple[float, Transition]]] = {fleet: [] for fleet in fleets}
    while entries := await bus.read_group("test", "test", 1_000, 10):
        for id, transition in entries:
            found[transition.fleet].append((int(id.split("-")[0]) / 1000, transition))
    return found


async def check(chaos: Chaos, bus: Bus, audit: Audit, end: float) -> None:
    """No step was lost or made twice, and no fleet was silent for two steps."""
    silences: list[float] = []
    for fleet, steps in (await committed(bus, chaos.fleets)).items():
        numbers = [step.step for _, step in steps]
        assert numbers == list(range(1, len(numbers) + 1)), fleet
        for (_, before), (_, after) in itertools.pairwise(steps):
            assert after.observation == before.next_observation, fleet
        times = [time for time, _ in steps]
        silences += [late - early for early, late in itertools.pairwise(times)]
        silences.append(end - times[-1])
    print(f"{chaos.done}, longest silence {max(silences):.1f} s, {audit.tried} commits too late")
    assert max(silences) <= 2 * chaos.step_seconds
    assert audit.tried, "a paused worker that wakes up tries to commit"
    assert not audit.went_on, "and can't"
    for worker in chaos.every:
        assert "Traceback" not in worker.log.read_text()


async def test_workers_that_are_killed_paused_and_ended_are_followed_by_the_others(
    chaos_of, bus, redis_url
):
    """All of it once, one after the other."""
    chaos: Chaos = chaos_of(30, 9.0)
    with Audit(redis_url) as audit:
        await chaos.all_are_there(bus)
        chaos.do("kill")
        await chaos.shared_by(bus, 2)
        chaos.do("pause")
        await chaos.shared_by(bus, 1)
        await steps_further(bus, chaos.fleets, 1)
        chaos.do("wake")
        chaos.do("start")
        await chaos.shared_by(bus, WORKERS)
        chaos.do("end")
        await chaos.shared_by(bus, 2)
        await steps_further(bus, chaos.fleets, 1)
        end = await now(bus)
    await check(chaos, bus, audit, end)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_no_step_is_lost_or_doubled_in_two_minutes_of_chaos(chaos_of, bus, redis_url):
    chaos: Chaos = chaos_of(300, 20.0)
    with Audit(redis_url) as audit:
        await chaos.all_are_there(bus)
        await steps_further(bus, chaos.fleets, 1)
        await chaos.rage(CHAOS_SECONDS)
        end = await now(bus)
        await chaos.all_are_there(bus)
    await check(chaos, bus, audit, end)
    assert min(chaos.done[what] for what in ("kill", "pause", "wake", "end", "start")) >= 3
