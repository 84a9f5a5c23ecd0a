"""Three environment workers, killed, paused and started at random for two minutes."""

import asyncio
import itertools
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from services.cli.supervision import service_command
from services.environment.worker import RENEW_SECONDS, lease_seconds
from shared.bus import Bus
from shared.messages import Transition
from tests.platform.workers import Audit, Worker, owners

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SEED = 5
CHAOS_SECONDS = 120.0
WORKERS = 3
FLEETS = tuple(f"fleet-{number}" for number in range(300))
STEP_SECONDS = 20.0
"""A worker that dies may be followed by another: even after three, two steps are not over."""
PAUSE_SECONDS = 2 * lease_seconds(STEP_SECONDS)
"""At least: others have taken the fleets by then."""
PATIENCE_SECONDS = 60.0
assert lease_seconds(STEP_SECONDS) + RENEW_SECONDS < PAUSE_SECONDS


@dataclass
class Chaos:
    """Three places for workers, and what happens to those in them."""

    environment: dict[str, str]
    folder: Path
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    every: list[Worker] = field(default_factory=list)
    running: list[Worker] = field(default_factory=list)
    paused: list[tuple[float, Worker]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        worker = Worker(self.environment, self.folder / f"worker-{len(self.every)}.log")
        self.every.append(worker)
        self.running.append(worker)

    def kill(self) -> None:
        self._taken().kill()

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

    def something(self) -> None:
        """What may happen and has happened least; somebody always goes on."""
        may: list[str] = []
        if sum(worker.ready for worker in self.running) > 1:
            may += ["kill", "pause"]
        if len(self.running) + len(self.paused) < WORKERS:
            may.append("start")
        if self.paused and time.monotonic() - self.paused[0][0] > PAUSE_SECONDS:
            may.append("wake")
        if may:
            self.chance.shuffle(may)
            what = min(may, key=self.done.__getitem__)
            self.done[what] += 1
            getattr(self, what)()

    async def rage(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self.chance.uniform(2, 7))
            self.something()

    async def calm_down(self) -> None:
        """Everybody is awake, everywhere."""
        while self.paused:
            self.wake()
        while len(self.running) < WORKERS:
            self.start()
        await until(lambda: all(worker.ready for worker in self.running), PATIENCE_SECONDS)


async def until(holds, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


@pytest.fixture
def matchmaker(unused_port, worker_environment) -> Iterator[str]:
    """A demand source that every second fleet reads; the others have their own sine."""
    port = unused_port()
    environment = {**worker_environment, "AUTOPILOT_MATCHMAKING_PORT": str(port)}
    process = subprocess.Popen(service_command("services.matchmaking"), env=environment)
    url = f"http://127.0.0.1:{port}/currsine1h?fleet={{fleet}}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _answers(url.format(fleet=FLEETS[0])):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield url
    process.kill()
    process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def chaos(worker_environment, tmp_path, matchmaker) -> Iterator[Chaos]:
    (tmp_path / "fleets.toml").write_text(
        "".join(
            f'[{fleet}]\ngs_inventory_url = "{source}"\n'
            for fleet, source in zip(FLEETS, itertools.cycle([matchmaker, "local"]), strict=False)
        )
    )
    chaos = Chaos(worker_environment, tmp_path)
    yield chaos
    for worker in chaos.every:
        worker.kill()


async def now(bus: Bus) -> float:
    seconds, micros = await bus._client.time()
    return float(seconds + micros / 1e6)


async def equal_shares(bus: Bus, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while sorted(len(held) for held in (await owners(bus)).values()) != [100, 100, 100]:
        assert time.monotonic() < deadline, {w: len(h) for w, h in (await owners(bus)).items()}
        await asyncio.sleep(0.2)


async def committed(bus: Bus) -> dict[str, list[tuple[float, Transition]]]:
    """All steps by fleet, in the order of their commits, with Redis's time of each."""
    await bus.open_group("test")
    found: dict[str, list[tuple[float, Transition]]] = {fleet: [] for fleet in FLEETS}
    while entries := await bus.read_group("test", "test", 1_000, 10):
        for id, transition in entries:
            found[transition.fleet].append((int(id.split("-")[0]) / 1000, transition))
    return found


async def until_all_step(bus: Bus) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all([await bus.fleet_record(fleet) for fleet in FLEETS]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)


async def test_no_step_is_lost_or_doubled_and_no_fleet_is_silent_for_two_steps(
    chaos, bus, redis_url
):
    audit = Audit(redis_url)
    audit.start()
    for _ in range(WORKERS):
        chaos.start()
    await chaos.calm_down()
    await equal_shares(bus, STEP_SECONDS)
    await until_all_step(bus)

    await chaos.rage(CHAOS_SECONDS)
    end = await now(bus)
    await chaos.calm_down()
    await equal_shares(bus, STEP_SECONDS)
    audit.end()

    silences: list[float] = []
    for fleet, steps in (await committed(bus)).items():
        numbers = [step.step for _, step in steps]
        assert numbers == list(range(1, len(numbers) + 1)), fleet
        for (_, before), (_, after) in itertools.pairwise(steps):
            assert after.observation == before.next_observation, fleet
        times = [time for time, _ in steps]
        silences += [late - early for early, late in itertools.pairwise(times)]
        silences.append(end - times[-1])
    print(f"{chaos.done}, longest silence {max(silences):.1f} s, {audit.tried} commits too late")
    assert max(silences) <= 2 * STEP_SECONDS
    assert audit.tried, "a paused worker that wakes up tries to commit"
    assert not audit.went_on, "and can't"
    assert min(chaos.done[what] for what in ("kill", "pause", "wake", "start")) >= 3
    for worker in chaos.every:
        assert "Traceback" not in worker.log.read_text()
