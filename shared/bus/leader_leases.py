"""Leader leases: work that one of several processes does at a time."""

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import Connection, bus_errors_async

_TAKE = """
-- KEYS: lease; ARGV: process, milliseconds
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_END = """
-- KEYS: lease; ARGV: process
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class LeaderLeases(Connection):
    """Takes and ends leader leases."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._take = client.register_script(_TAKE)
        self._end = client.register_script(_END)

    async def take_lease(self, work: str, process: str, seconds: float) -> bool:
        """Take or renew the lease of `work` for `seconds`. Returns whether this process has it."""
        with bus_errors_async():
            taken = await self._take(
                keys=[keys.LEADER_LEASE.format(work=work)], args=[process, int(seconds * 1000)]
            )
        return bool(taken)

    async def end_lease(self, work: str, process: str) -> None:
        """End a process's lease, so that another may take it at once."""
        with bus_errors_async():
            await self._end(keys=[keys.LEADER_LEASE.format(work=work)], args=[process])
