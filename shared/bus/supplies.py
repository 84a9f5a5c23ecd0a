"""Supply: what the controller of a fleet counts, for as long as it goes on telling."""

from collections.abc import Sequence
from typing import Any

from shared.bus import keys
from shared.bus.connection import Connection, asking
from shared.bus.entries import readable
from shared.messages import SUPPLY_SECONDS, FleetSupply


class Supplies(Connection):
    """What controllers tell, by way of the service that they ask."""

    async def record_supplies(self, supplies: Sequence[FleetSupply]) -> None:
        """Make these the newest of their fleets, in one round trip, for `SUPPLY_SECONDS`."""
        pipeline = self._client.pipeline(transaction=False)
        for supply in supplies:
            key = keys.SUPPLY.format(fleet=supply.fleet)
            pipeline.set(key, supply.model_dump_json(exclude_none=True), ex=SUPPLY_SECONDS)
        with asking():
            await pipeline.execute()

    async def newest_supplies(self, fleets: Sequence[str]) -> dict[str, FleetSupply]:
        """The newest supply of those of these fleets that have one, in one round trip."""
        names = [keys.SUPPLY.format(fleet=fleet) for fleet in fleets]
        with asking():
            found: Any = await self._client.mget(names)
        supplies = (readable(FleetSupply, content) for content in found if content is not None)
        return {supply.fleet: supply for supply in supplies if supply is not None}
