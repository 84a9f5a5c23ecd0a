"""An environment worker in this process, and waiting for steps."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from services.environment.demand_source import LocalSine
from services.environment.fleet_loop import FleetLoop
from services.environment.worker import step_fleets
from shared.bus import Bus, TrainingQueue
from shared.messages import FleetRecord, utc_now
from shared.policies.champions import Champions
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.eventually import eventually_async

QUICK_STEP_SECONDS = 0.05


@contextlib.asynccontextmanager
async def stepping(
    redis_url: str, store: PolicyStore, **settings: Any
) -> AsyncIterator[tuple[Bus, TrainingQueue]]:
    """An environment worker of a fleet with these settings while the block runs."""
    fleet = FleetSettings(learning_freq=QUICK_STEP_SECONDS, train_batch_size=100_000, **settings)
    fleets = Fleets({"default": fleet})
    bus, queue, stop = Bus.connect(redis_url), TrainingQueue(redis_url), asyncio.Event()
    champions = Champions(store, fleets)
    source = LocalSine(60.0)
    loop = FleetLoop("default", fleet, 0.0, source, champions, bus, queue, utc_now)
    worker = asyncio.create_task(step_fleets([loop], champions, bus, stop))
    try:
        yield bus, queue
    finally:
        stop.set()
        await worker
        await bus.close()
        queue.connection.close()


async def further(bus: Bus, steps: int = 10) -> FleetRecord:
    """The fleet's record, so many steps later."""
    return (await steps_further(bus, ["default"], steps))[0]


async def steps_further(bus: Bus, fleets: Sequence[str], steps: int) -> list[FleetRecord]:
    """The records of these fleets, once each is so many steps later."""

    async def numbers() -> list[int]:
        records = [await bus.fleet_record(fleet) for fleet in fleets]
        return [0 if record is None else record.step for record in records]

    wanted = [number + steps for number in await numbers()]
    await eventually_async(
        numbers,
        f"{wanted} steps of {fleets}",
        holds=lambda found: all(now >= then for now, then in zip(found, wanted, strict=True)),
    )
    records = [await bus.fleet_record(fleet) for fleet in fleets]
    return [record for record in records if record is not None]
