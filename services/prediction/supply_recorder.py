"""Records the supply that fleets' controllers report in Redis, in the background."""

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Counter

from shared.bus import Bus
from shared.errors import BusAway
from shared.messages import FleetSupply
from shared.resilience import Outage

_log = structlog.get_logger(__name__)


class Supplies:
    """The newest supply of each fleet that is to be recorded.

    There is one attempt for each: after an outage the controller has reported a newer one.
    """

    def __init__(self, bus: Bus, registry: CollectorRegistry) -> None:
        self._bus = bus
        self._pending: dict[str, FleetSupply] = {}
        self._reported = asyncio.Event()
        self._outage = Outage("supply_not_recorded", "supply_recorded_again")
        self._recorded = Counter(
            "autopilot_supplies_recorded", "Supplies that are in Redis", registry=registry
        )
        self._lost = Counter(
            "autopilot_supplies_lost", "Supplies that Redis did not take", registry=registry
        )

    def take(self, supply: FleetSupply) -> None:
        """Queue a supply for recording; returns at once."""
        self._pending[supply.fleet] = supply
        self._reported.set()

    async def record(self) -> None:
        """Record queued supplies, until cancelled."""
        while True:
            await self._reported.wait()
            self._reported.clear()
            supplies, self._pending = list(self._pending.values()), {}
            try:
                await self._bus.record_supplies(supplies)
            except BusAway as error:
                self._lost.inc(len(supplies))
                self._outage.begin(error)
            else:
                self._recorded.inc(len(supplies))
                self._outage.end()
