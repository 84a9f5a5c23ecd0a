"""The worker: steps the fleets that are assigned to it, of all that the workers share."""

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from services.environment.fleet_loop import FleetLoop
from shared.bus import CHAMPIONS, Bus, Lease
from shared.errors import BusAway
from shared.messages import Champion
from shared.policies.champions import Champions
from shared.probe import beat
from shared.resilience import cancelled, supervised

LEASE_STEPS = 0.2
"""Duration of a worker's presence, in steps: without a renewal others take over its fleets."""
SHORTEST_LEASE_SECONDS = 3.0
"""A demo may step faster than a busy machine delays."""
LONGEST_LEASE_SECONDS = 15.0
RENEW_SECONDS = 1.0
RESUMING_AT_ONCE = 8
"""Fleets whose state and history are read concurrently: a worker may take over thousands."""
SHUTDOWN_SECONDS = 5.0
"""Time after SIGTERM for present steps to be committed."""

_log = structlog.get_logger(__name__)


def lease_seconds(step_seconds: float) -> float:
    """Duration of a worker's presence: a fraction of a step, so that no fleet misses two steps."""
    return min(max(LEASE_STEPS * step_seconds, SHORTEST_LEASE_SECONDS), LONGEST_LEASE_SECONDS)


class Assignment:
    """Steps the fleets that this worker holds, as long as it holds them."""

    def __init__(self, loops: Sequence[FleetLoop], bus: Bus, heartbeat: Path | None = None) -> None:
        """`heartbeat` is a file that is touched after every renewal in Redis."""
        self._loops = {loop.fleet: loop for loop in loops}
        self._bus = bus
        self._heartbeat = heartbeat
        self._worker = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._lease_s = lease_seconds(min(loop.step_seconds for loop in loops))
        self._changes = 0
        self._resuming = asyncio.Semaphore(RESUMING_AT_ONCE)
        self._stepping: dict[str, tuple[Lease, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Renew and follow the leases until cancelled. In an outage of Redis nothing changes."""
        while True:
            try:
                await self._renew()
            except BusAway as error:
                _log.debug("leases_not_renewed", reason=str(error))
            except Exception:  # noqa: BLE001 - without renewals the leases would expire
                _log.exception("leases_not_renewed")
            else:
                beat(self._heartbeat)
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self) -> None:
        """Renew the presence; rebalance when a lease has changed, or one of our tasks has ended."""
        changes = await self._bus.renew(self._worker, self._lease_s)
        ended = any(task.done() for _, task in self._stepping.values())
        if changes and changes == self._changes and not ended:
            return
        held = await self._bus.hold_fleets(self._worker, tuple(self._loops), self._lease_s)
        await self._step_only(held)
        self._changes = changes

    async def _step_only(self, held: dict[str, Lease]) -> None:
        before = set(self._stepping)
        lost = [
            fleet
            for fleet, (lease, task) in self._stepping.items()
            if held.get(fleet) != lease or task.done()
        ]
        await cancelled(*[self._stepping.pop(fleet)[1] for fleet in lost])
        for fleet, lease in held.items():
            if fleet not in self._stepping:
                task = asyncio.create_task(self._step(self._loops[fleet], lease))
                self._stepping[fleet] = (lease, task)
        if set(self._stepping) != before:
            _log.info("fleets_held", fleets=len(held), of=len(self._loops))

    async def _step(self, loop: FleetLoop, lease: Lease) -> None:
        """Step a fleet until its lease is lost; also ends if its state can't be read."""
        try:
            async with self._resuming:
                await loop.resume(lease)
        except Exception:  # noqa: BLE001 - it is retried at the next renewal
            _log.exception("fleet_not_resumed", fleet=loop.fleet)
        else:
            await loop.run()

    async def end(self) -> None:
        """Wait for present steps to be committed, then release the fleets to other workers."""
        held = [self._loops[fleet] for fleet in self._stepping]
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await asyncio.gather(*(loop.finish() for loop in held))
                await self._bus.leave_fleets(self._worker)
        except (TimeoutError, BusAway):
            _log.warning("shutdown_cut_short", reason="a step was not committed; it is repeated")
        await cancelled(*(task for _, task in self._stepping.values()))


async def step_fleets(
    loops: Sequence[FleetLoop],
    champions: Champions,
    bus: Bus,
    stop: asyncio.Event,
    heartbeat: Path | None = None,
) -> None:
    """Step the fleets that this worker holds, and follow their champions, until `stop`."""
    await champions.load_all()
    assignment = Assignment(loops, bus, heartbeat)
    works: dict[str, Callable[[], Awaitable[None]]] = {
        "follow_champions": partial(_follow_champions, champions, bus),
        "reload_champions": champions.reload,
        "hold_fleets": assignment.run,
    }
    tasks = [asyncio.create_task(supervised(name, work)) for name, work in works.items()]
    _log.info("environment_ready", fleets=len(loops))
    await stop.wait()
    await cancelled(*tasks)
    await assignment.end()


async def _follow_champions(champions: Champions, bus: Bus) -> None:
    async for change in bus.follow(CHAMPIONS):
        assert isinstance(change, Champion)
        await champions.apply(change)
