"""Environment workers as processes share the fleets: joining, killed, paused, ended."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from services.cli.supervision import service_command
from services.environment.demand_source import LocalSine
from services.environment.fleet_loop import FleetLoop
from services.environment.worker import lease_seconds, step_fleets
from shared.bus import Bus, TrainingQueue, keys
from shared.messages import utc_now
from shared.policies.champions import Champions
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.platform.workers import owners

STEP_SECONDS = 0.2
FLEETS = tuple("abcdefg")
PATIENCE_SECONDS = 40.0


@contextmanager
def workers(environment: dict[str, str], number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = service_command("services.environment")
    started = [subprocess.Popen(command, env=environment) for _ in range(number)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()
            worker.wait()


async def every_fleet_steps_further(bus: Bus, steps: int) -> None:
    await steps_further(bus, FLEETS, steps)


async def steps_further(bus: Bus, fleets: Sequence[str], steps: int) -> None:
    async def numbers() -> list[int]:
        records = [await bus.fleet_record(fleet) for fleet in fleets]
        return [0 if record is None else record.step for record in records]

    wanted = [number + steps for number in await numbers()]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = await numbers()
        if all(now >= then for now, then in zip(found, wanted, strict=True)):
            return
        assert time.monotonic() < deadline, f"at {found}, not yet {wanted}"
        await asyncio.sleep(STEP_SECONDS)


async def shared_by(bus: Bus, number: int) -> dict[str, set[str]]:
    """Who holds what, once so many workers hold all of it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        held = await owners(bus)
        if len(held) == number and sum(map(len, held.values())) == len(FLEETS):
            return held
        assert time.monotonic() < deadline, held
        await asyncio.sleep(STEP_SECONDS)


async def in_order(bus: Bus) -> None:
    await bus.open_group("test")
    steps: dict[str, list[int]] = {fleet: [] for fleet in FLEETS}
    for _, transition in await bus.read_group("test", "test", 100_000, 10):
        steps[transition.fleet].append(transition.step)
    for fleet, numbers in steps.items():
        assert numbers == list(range(1, len(numbers) + 1)), fleet


@pytest.mark.parametrize(("step", "lease"), [(0.05, 3.0), (65.0, 13.0), (900.0, 15.0)])
def test_a_lease_is_a_part_of_a_step(step, lease):
    assert lease_seconds(step) == lease


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_workers_share_and_take_over_from_one_that_ends(worker_environment, bus, number):
    with workers(worker_environment, 2) as started:
        held = await shared_by(bus, 2)
        assert sorted(map(len, held.values())) == [3, 4]
        await every_fleet_steps_further(bus, 5)
        started[0].send_signal(number)
        await shared_by(bus, 1)
        await every_fleet_steps_further(bus, 5)
    await in_order(bus)


async def test_a_worker_that_was_paused_does_not_step_what_others_took(worker_environment, bus):
    with workers(worker_environment, 2) as started:
        await shared_by(bus, 2)
        await every_fleet_steps_further(bus, 5)
        started[0].send_signal(signal.SIGSTOP)
        await shared_by(bus, 1)
        await every_fleet_steps_further(bus, 5)
        started[0].send_signal(signal.SIGCONT)
        held = await shared_by(bus, 2)
        assert sorted(map(len, held.values())) == [3, 4]
        await every_fleet_steps_further(bus, 5)
    await in_order(bus)


async def test_a_fleet_whose_state_can_not_be_read_is_tried_again_beside_the_others(
    bus, redis_url, tmp_path
):
    pace = {"learning_freq": STEP_SECONDS, "gs_inventory_url": "local"}
    fleets = Fleets({fleet: FleetSettings(**pace) for fleet in ("bad", "good")})
    champions = Champions(PolicyStore.at(tmp_path), fleets)
    queue = TrainingQueue(redis_url)
    loops = [
        FleetLoop(fleet, fleets[fleet], 0.0, LocalSine(90.0), champions, bus, queue, utc_now)
        for fleet in fleets.names
    ]
    key = keys.FLEET.format(fleet="bad")
    await bus._client.hset(key, mapping={"step": 1, "state": "{"})
    stop = asyncio.Event()
    worker = asyncio.create_task(step_fleets(loops, champions, bus, stop))
    await steps_further(bus, ["good"], 5)
    assert await bus.recorded_steps("bad") == []
    await bus._client.delete(key)
    await steps_further(bus, ["bad", "good"], 5)
    stop.set()
    await worker
    queue.connection.close()
