"""Supply: the servers that a fleet's controller counts, valid as long as it keeps reporting."""

from collections.abc import Sequence
from typing import Any

from shared.bus import keys
from shared.bus.connection import Connection, bus_errors_async
from shared.bus.entries import readable
from shared.messages import SUPPLY_SECONDS, FleetSupply


class Supplies(Connection):
    """Supply as fleets' controllers report it."""

    async def record_supplies(self, supplies: Sequence[FleetSupply]) -> None:
        """Store these as their fleets' newest, in one round trip, for `SUPPLY_SECONDS`."""
        pipeline = self._client.pipeline(transaction=False)
        for supply in supplies:
            key = keys.SUPPLY.format(fleet=supply.fleet)
            pipeline.set(key, supply.model_dump_json(exclude_none=True), ex=SUPPLY_SECONDS)
        with bus_errors_async():
            await pipeline.execute()

    async def newest_supplies(self, fleets: Sequence[str]) -> dict[str, FleetSupply]:
        """The newest supply by fleet, of those of `fleets` that have one, in one round trip."""
        names = [keys.SUPPLY.format(fleet=fleet) for fleet in fleets]
        with bus_errors_async():
            found: Any = await self._client.mget(names)
        supplies = (readable(FleetSupply, content) for content in found if content is not None)
        return {supply.fleet: supply for supply in supplies if supply is not None}
