"""Demand: recorded with every report, the newest of each fleet at hand."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import asking
from shared.bus.feeds import Feeds
from shared.bus.keys import DEMANDS
from shared.messages import Demand


class DemandReceipt(NamedTuple):
    """What became of a demand report."""

    id: str
    duplicate: bool
    superseded: bool


_RECORD_DEMANDS = """
-- KEYS: stream, newest, newest-at, then a seen key for each report ('' for none)
-- ARGV: stream length, seen expiry, then for each report: fleet, message, observed_at in us
local receipts = {}
for i = 4, #KEYS do
  local at = 3 + (i - 4) * 3
  local fleet, message, observed = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local seen = KEYS[i] ~= '' and redis.call('GET', KEYS[i])
  if seen then
    receipts[#receipts + 1] = {seen, 1, 0}
  else
    local newest = redis.call('HGET', KEYS[3], fleet)
    local superseded = newest and tonumber(newest) > tonumber(observed)
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'fleet', fleet, 'message', message)
    if not superseded then
      redis.call('HSET', KEYS[2], fleet, message)
      redis.call('HSET', KEYS[3], fleet, observed)
    end
    if KEYS[i] ~= '' then redis.call('SET', KEYS[i], id, 'EX', ARGV[2]) end
    receipts[#receipts + 1] = {id, 0, superseded and 1 or 0}
  end
end
return receipts
"""


class Demands(Feeds):
    """What matchmakers report."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._record_demands = client.register_script(_RECORD_DEMANDS)

    async def record_demands(
        self, demands: Sequence[Demand], idempotency_keys: Sequence[str | None]
    ) -> list[DemandReceipt]:
        """Record reports in one round trip, in order; a repeated idempotency key changes nothing."""
        names = [DEMANDS.changes, DEMANDS.state, keys.NEWEST_AT]
        arguments: list[Any] = [keys.DEMAND_LENGTH, keys.IDEMPOTENCY_SECONDS]
        for demand, key in zip(demands, idempotency_keys, strict=True):
            names.append(keys.SEEN.format(fleet=demand.fleet, key=key) if key is not None else "")
            observed_us = int(demand.observed_at.timestamp() * 1e6)
            arguments += (demand.fleet, demand.model_dump_json(exclude_none=True), observed_us)
        with asking():
            receipts = await self._record_demands(keys=names, args=arguments)
        return [DemandReceipt(id.decode(), bool(dup), bool(late)) for id, dup, late in receipts]

    async def newest_demand(self, fleet: str) -> Demand | None:
        """The demand with the newest `observed_at`."""
        return await self._latest(DEMANDS, fleet)
