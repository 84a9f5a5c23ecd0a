"""Which environment worker steps which fleet."""

from collections.abc import Sequence
from typing import NewType

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import Connection, asking

Lease = NewType("Lease", str)
"""That a worker holds a fleet: a fencing token, which grows with every change, and the worker."""

_HOLD_FLEETS = """
-- KEYS: workers, leases, token; ARGV: worker, milliseconds until it counts as gone, then the fleets
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local there = {}
for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do there[worker] = true end
local share = math.ceil((#ARGV - 2) / redis.call('ZCARD', KEYS[1]))
local held, free = {}, {}
for i = 3, #ARGV do
  local lease = redis.call('HGET', KEYS[2], ARGV[i])
  local owner = lease and string.match(lease, ' (.*)$')
  if owner == ARGV[1] and #held < 2 * share then
    held[#held + 1] = ARGV[i]
    held[#held + 1] = lease
  elseif owner == ARGV[1] then
    redis.call('HDEL', KEYS[2], ARGV[i])
  elseif not (owner and there[owner]) then
    free[#free + 1] = ARGV[i]
  end
end
for _, fleet in ipairs(free) do
  if #held == 2 * share then break end
  local lease = redis.call('INCR', KEYS[3]) .. ' ' .. ARGV[1]
  redis.call('HSET', KEYS[2], fleet, lease)
  held[#held + 1] = fleet
  held[#held + 1] = lease
end
return held
"""


class Leases(Connection):
    """Fleets, shared by workers."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._hold_fleets = client.register_script(_HOLD_FLEETS)

    async def hold_fleets(
        self, worker: str, fleets: Sequence[str], seconds: float
    ) -> dict[str, Lease]:
        """The fleets that a worker holds from now on, and says that it is there, for `seconds`.

        Each worker holds an equal share, rounded up: what is beyond its share it gives back, what
        nobody holds who is there it takes, up to its share. It keeps what it has otherwise.
        """
        with asking():
            held = await self._hold_fleets(
                keys=[keys.WORKERS, keys.LEASES, keys.LEASE_TOKEN],
                args=[worker, int(seconds * 1000), *fleets],
            )
        words = [word.decode() for word in held]
        return dict(zip(words[::2], map(Lease, words[1::2]), strict=True))

    async def leave_fleets(self, worker: str) -> None:
        """A worker ends: others may take its fleets at once."""
        with asking():
            await self._client.zrem(keys.WORKERS, worker)
