"""The environment worker as a process: killed and ended in mid-step, and started again."""

import asyncio
import itertools
import signal
import subprocess
import time

import pytest

from services.cli.supervision import service_command
from shared.bus import Bus
from shared.messages import Transition

STEP_SECONDS = 0.02
FLEETS = ("one", "two", "three")
PATIENCE_SECONDS = 30.0


def start(environment) -> subprocess.Popen[bytes]:
    return subprocess.Popen(service_command("services.environment"), env=environment)


async def transitions_of(bus: Bus) -> dict[str, list[Transition]]:
    """All transitions so far, by fleet, in the order of their commits."""
    await bus.open_group("test")
    found: dict[str, list[Transition]] = {fleet: [] for fleet in FLEETS}
    for _, transition in await bus.read_group("test", "test", 100_000, 10):
        found[transition.fleet].append(transition)
    return found


async def stepped_further(bus: Bus, fleet: str, steps: int) -> None:
    record = await bus.fleet_record(fleet)
    wanted = (0 if record is None else record.step) + steps
    deadline = time.monotonic() + PATIENCE_SECONDS
    while record is None or record.step < wanted:
        assert time.monotonic() < deadline, f"{fleet} does not step"
        await asyncio.sleep(STEP_SECONDS)
        record = await bus.fleet_record(fleet)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_step_is_lost_or_made_twice_and_the_gap_is_marked(worker_environment, bus, number):
    for _ in range(3):
        worker = start(worker_environment)
        await stepped_further(bus, "three", 20)
        worker.send_signal(number)
        code = worker.wait(PATIENCE_SECONDS)
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        await asyncio.sleep(10 * STEP_SECONDS)
    for fleet, transitions in (await transitions_of(bus)).items():
        assert [t.step for t in transitions] == list(range(1, len(transitions) + 1)), fleet
        assert len(transitions) >= 50
        for before, after in itertools.pairwise(transitions):
            assert after.observation == before.next_observation
            elapsed = (after.at - before.at).total_seconds()
            assert elapsed == pytest.approx(STEP_SECONDS * (1 + after.gap_steps))
        for early, late in zip(transitions, transitions[5:], strict=False):
            assert late.allocation == early.target
        gaps = [t.step for t in transitions if t.gap_steps >= 9]
        assert len(gaps) >= 2, "both times that the worker was away are marked"
