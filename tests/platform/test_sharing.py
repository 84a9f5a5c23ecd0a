"""What a worker does with fleets that it holds; how workers share them: test_workers_chaos.py."""

import asyncio

import pytest

from services.environment.demand_source import LocalSine
from services.environment.fleet_loop import FleetLoop
from services.environment.worker import lease_seconds, step_fleets
from shared.bus import TrainingQueue, keys
from shared.messages import utc_now
from shared.policies.champions import Champions
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.platform.stepping import steps_further

STEP_SECONDS = 0.2


@pytest.mark.parametrize(("step", "lease"), [(0.05, 3.0), (65.0, 13.0), (900.0, 15.0)])
def test_a_lease_is_a_part_of_a_step(step, lease):
    assert lease_seconds(step) == lease


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
