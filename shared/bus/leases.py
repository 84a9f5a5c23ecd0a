"""Leases: the assignment of fleets to environment workers.

A lease means that a worker holds a fleet. It is checked in the script that commits a step, so a
worker may notice late that it has lost one. A worker renews its presence, not each lease, so the
renewal costs the same for one fleet and for ten thousand.
"""

from collections.abc import Sequence
from typing import NewType

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import Connection, bus_errors_async

Lease = NewType("Lease", str)
"""A worker's hold on a fleet: a fencing token, which grows with every change, and the worker."""

_STAY = """
-- KEYS: workers, token; ARGV: worker, milliseconds until its presence expires
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local came = redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local went = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if came + went > 0 then redis.call('INCR', KEYS[2]) end
"""

_RENEW = (
    _STAY
    + """
return came > 0 and 0 or tonumber(redis.call('GET', KEYS[2]) or 0)
"""
)

_HOLD_FLEETS = (
    _STAY
    + """
-- KEYS, too: leases; ARGV, too: the fleets
local there = {}
for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do there[worker] = true end
local share = math.ceil((#ARGV - 2) / redis.call('ZCARD', KEYS[1]))
local held, free = {}, {}
for i = 3, #ARGV do
  local lease = redis.call('HGET', KEYS[3], ARGV[i])
  local owner = lease and string.match(lease, ' (.*)$')
  if owner == ARGV[1] and #held < 2 * share then
    held[#held + 1] = ARGV[i]
    held[#held + 1] = lease
  elseif owner == ARGV[1] then
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('INCR', KEYS[2])
  elseif not (owner and there[owner]) then
    free[#free + 1] = ARGV[i]
  end
end
for _, fleet in ipairs(free) do
  if #held == 2 * share then break end
  local lease = redis.call('INCR', KEYS[2]) .. ' ' .. ARGV[1]
  redis.call('HSET', KEYS[3], fleet, lease)
  held[#held + 1] = fleet
  held[#held + 1] = lease
end
return held
"""
)

_LEAVE = """
-- KEYS: workers, token; ARGV: worker
if redis.call('ZREM', KEYS[1], ARGV[1]) > 0 then redis.call('INCR', KEYS[2]) end
"""


class Leases(Connection):
    """The assignment of fleets to workers."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._renew = client.register_script(_RENEW)
        self._hold_fleets = client.register_script(_HOLD_FLEETS)
        self._leave = client.register_script(_LEAVE)

    async def renew(self, worker: str, seconds: float) -> int:
        """Renew a worker's presence for `seconds`, and with it the leases that it holds.

        Returns a number that changes whenever any worker or lease does: then call `hold_fleets`.
        Returns 0 if the worker's presence had expired: others may have taken its fleets.
        """
        with bus_errors_async():
            changes: int = await self._renew(
                keys=[keys.WORKERS, keys.LEASE_TOKEN], args=[worker, int(seconds * 1000)]
            )
        return changes

    async def hold_fleets(
        self, worker: str, fleets: Sequence[str], seconds: float
    ) -> dict[str, Lease]:
        """Rebalance, and renew a worker's presence. Returns the leases that it holds, by fleet.

        Each worker holds an equal share, rounded up. It releases what exceeds its share, and takes
        fleets that no present worker holds, up to its share; otherwise it keeps what it has.
        """
        with bus_errors_async():
            held = await self._hold_fleets(
                keys=[keys.WORKERS, keys.LEASE_TOKEN, keys.LEASES],
                args=[worker, int(seconds * 1000), *fleets],
            )
        words = [word.decode() for word in held]
        return dict(zip(words[::2], map(Lease, words[1::2]), strict=True))

    async def leave_fleets(self, worker: str) -> None:
        """End a worker's presence: others may take its fleets at once."""
        with bus_errors_async():
            await self._leave(keys=[keys.WORKERS, keys.LEASE_TOKEN], args=[worker])
