"""Work that one process of several does at a time."""

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import Connection, asking

_TAKE_TURN = """
-- KEYS: turn; ARGV: process, milliseconds
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_END_TURN = """
-- KEYS: turn; ARGV: process
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class LeaderLeases(Connection):
    """Whose turn it is."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._take_turn = client.register_script(_TAKE_TURN)
        self._end_turn = client.register_script(_END_TURN)

    async def take_lease(self, work: str, process: str, seconds: float) -> bool:
        """Whether the work is this process's from now on, for `seconds`: nobody else has it."""
        with asking():
            taken = await self._take_turn(
                keys=[keys.TURN.format(work=work)], args=[process, int(seconds * 1000)]
            )
        return bool(taken)

    async def end_lease(self, work: str, process: str) -> None:
        """Let others have the work at once."""
        with asking():
            await self._end_turn(keys=[keys.TURN.format(work=work)], args=[process])
