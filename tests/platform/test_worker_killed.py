"""The environment worker as a process: killed and ended in mid-step, and started again."""

import asyncio
import itertools
import signal

import pytest

from shared.bus import Bus
from shared.messages import Transition
from tests.eventually import PATIENCE_SECONDS
from tests.platform.stepping import steps_further
from tests.processes import Process

STEP_SECONDS = 0.02
FLEETS = ("one", "two", "three")


async def transitions_of(bus: Bus) -> dict[str, list[Transition]]:
    """All transitions so far, by fleet, in the order of their commits."""
    await bus.open_group("test")
    found: dict[str, list[Transition]] = {fleet: [] for fleet in FLEETS}
    for _, transition in await bus.read_group("test", "test", 100_000, 10):
        found[transition.fleet].append(transition)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_step_is_lost_or_made_twice_and_the_gap_is_marked(worker_environment, bus, number):
    for _ in range(3):
        worker = Process("services.environment", env=worker_environment)
        await steps_further(bus, ["three"], 20)
        worker.send_signal(number)
        code = worker.wait(PATIENCE_SECONDS)
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        await asyncio.sleep(10 * STEP_SECONDS)  # so many steps are not made
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
