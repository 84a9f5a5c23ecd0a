"""Wire and run the environment worker: ``python -m services.environment``."""

import asyncio
import gc
import signal

import httpx
import uvloop

from services.environment.demand_source import DemandSource, HttpDemand, LocalSine
from services.environment.fleet_loop import FleetLoop
from services.environment.supply import Supplies
from services.environment.worker import step_fleets
from shared.bus import Bus, TrainingQueue
from shared.entry import run_service
from shared.http.access import tokens_of
from shared.http.bearer import bearer_for, is_under
from shared.http.tokens import READERS, Tokens
from shared.messages import utc_now
from shared.policies.champions import Champions
from shared.policies.store import PolicyStore
from shared.settings import LOCAL_DEMAND, Fleets, FleetSettings, Settings

REQUESTS_AT_ONCE = 16
"""Most concurrent demand requests, over all fleets."""


def main(settings: Settings, fleets: Fleets) -> None:
    uvloop.run(_run(settings, fleets))


async def _run(settings: Settings, fleets: Fleets) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bus = Bus.connect(settings.redis_url)
    queue = TrainingQueue(settings.redis_url)
    champions = Champions(PolicyStore.of(settings), fleets)
    shortest_step_s = min(each.learning_freq for each in fleets.by_name.values())
    supplies = Supplies(bus, fleets.names, shortest_step_s)
    tokens = tokens_of(settings)
    requests = asyncio.Semaphore(REQUESTS_AT_ONCE)
    limits = httpx.Limits(max_keepalive_connections=REQUESTS_AT_ONCE)
    async with httpx.AsyncClient(limits=limits) as client:
        loops = [
            FleetLoop(
                fleet,
                fleets[fleet],
                index / len(fleets.names),
                _source(client, requests, fleet, fleets[fleet], tokens),
                champions,
                bus,
                queue,
                utc_now,
                settings.seed,
                supplies,
                len(fleets.names),
            )
            for index, fleet in enumerate(fleets.names)
        ]
        gc.freeze()
        # With its own connections: a renewal must not wait behind thousands of steps.
        leases = Bus.connect(settings.redis_url)
        await step_fleets(loops, champions, leases, stop, settings.heartbeat)
    await leases.close()
    await bus.close()


def _source(
    client: httpx.AsyncClient,
    requests: asyncio.Semaphore,
    fleet: str,
    settings: FleetSettings,
    tokens: Tokens,
) -> DemandSource:
    if settings.gs_inventory_url == LOCAL_DEMAND:
        return LocalSine(settings.max_servers)
    url = settings.gs_inventory_url
    auth = bearer_for(url, tokens, READERS) if is_under(settings.matchmaking_url, url) else None
    return HttpDemand(client, requests, url, fleet, settings.learning_freq, auth)


if __name__ == "__main__":
    run_service("environment", main)
