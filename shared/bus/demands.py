"""Demand: a stream of all reports, and the newest of each fleet."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import bus_errors_async
from shared.bus.feeds import Feeds
from shared.bus.keys import DEMANDS
from shared.messages import Demand


class IdempotencyKey(NamedTuple):
    """The key that a sender gives a report, and a digest of the report."""

    key: str
    digest: str


class DemandReceipt(NamedTuple):
    """How a demand report was processed."""

    id: str
    """The report's id in the stream; for a duplicate or a conflict, that of the first report."""
    duplicate: bool
    superseded: bool
    conflict: bool = False
    """Its key was used for another payload before: nothing is recorded."""


_DUPLICATE, _CONFLICT = 1, 2
"""The script's results for a key that was used before."""

_RECORD_DEMANDS = """
-- KEYS: stream, newest, newest-at, then a seen key for each report ('' for none)
-- ARGV: stream length, seen expiry, then for each report: fleet, message, observed_at in us, digest
-- A seen key holds "<id> <digest>"; an earlier release has written the id alone.
local receipts = {}
for i = 4, #KEYS do
  local at = 3 + (i - 4) * 4
  local fleet, message, observed, digest = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local seen = KEYS[i] ~= '' and redis.pcall('GET', KEYS[i])
  -- No report may fail alone: those before it would be recorded, but reported as failed.
  if type(seen) == 'table' then seen = false end
  if seen then
    local id, first = string.match(seen, '^(%S*) ?(.*)$')
    local conflict = first ~= '' and first ~= digest
    receipts[#receipts + 1] = {id, conflict and 2 or 1, 0}
  else
    local newest = tonumber(redis.call('HGET', KEYS[3], fleet) or '')
    local superseded = newest and newest > tonumber(observed)
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'fleet', fleet, 'message', message)
    if not superseded then
      redis.call('HSET', KEYS[2], fleet, message)
      redis.call('HSET', KEYS[3], fleet, observed)
    end
    if KEYS[i] ~= '' then redis.call('SET', KEYS[i], id .. ' ' .. digest, 'EX', ARGV[2]) end
    receipts[#receipts + 1] = {id, 0, superseded and 1 or 0}
  end
end
return receipts
"""


class Demands(Feeds):
    """Demand as matchmakers report it."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._record_demands = client.register_script(_RECORD_DEMANDS)

    async def record_demands(
        self, demands: Sequence[Demand], idempotency_keys: Sequence[IdempotencyKey | None]
    ) -> list[DemandReceipt]:
        """Record reports in one round trip, in order.

        A report whose idempotency key was used within `IDEMPOTENCY_SECONDS` is not recorded: with
        the same digest it is a duplicate, with another one a conflict.
        """
        names = [DEMANDS.changes, DEMANDS.state, keys.NEWEST_AT]
        arguments: list[Any] = [keys.DEMAND_LENGTH, keys.IDEMPOTENCY_SECONDS]
        for demand, sent in zip(demands, idempotency_keys, strict=True):
            fleet, digest = demand.fleet, ""
            if sent is None:
                names.append("")
            else:
                names.append(keys.SEEN.format(fleet=fleet, key=sent.key))
                digest = sent.digest
            observed_us = int(demand.observed_at.timestamp() * 1e6)
            arguments += (fleet, demand.model_dump_json(exclude_none=True), observed_us, digest)
        with bus_errors_async():
            receipts = await self._record_demands(keys=names, args=arguments)
        return [
            DemandReceipt(id.decode(), seen == _DUPLICATE, bool(late), seen == _CONFLICT)
            for id, seen, late in receipts
        ]

    async def newest_demand(self, fleet: str) -> Demand | None:
        """The demand with the newest `observed_at`."""
        return await self._latest(DEMANDS, fleet)
