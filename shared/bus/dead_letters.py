"""Dead letters: stream entries that a consumer can't process, set aside so that it can go on."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis.asyncio

from shared.bus import keys
from shared.bus.connection import Connection, bus_errors_async
from shared.bus.keys import Log

_SET_ASIDE = """
-- KEYS: the entry's stream, dead letters; ARGV: group, id, reason, content, length
-- Acknowledged first: when the answer is lost and it is set aside again, nothing more happens.
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'group', ARGV[1], 'stream', KEYS[1],
  'id', ARGV[2], 'reason', ARGV[3], 'content', ARGV[4])
return 1
"""


class DeadLetter(NamedTuple):
    """An entry that a consumer group has set aside."""

    at: datetime
    """When it was set aside."""
    group: str
    stream: str
    id: str
    """The entry's, in its stream."""
    reason: str
    content: str
    """The entry's message, at most `DEAD_LETTER_BYTES` of it."""


class DeadLetters(Connection):
    """The entries that consumer groups could not process."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._set_aside = client.register_script(_SET_ASIDE)

    async def set_aside(
        self, group: str, log: Log[Any], id: str, reason: str, content: bytes
    ) -> None:
        """Acknowledge a group's entry and store it as a dead letter, atomically."""
        kept = content[: keys.DEAD_LETTER_BYTES]
        with bus_errors_async():
            await self._set_aside(
                keys=[log.stream, keys.DEAD_LETTERS],
                args=[group, id, reason, kept, keys.DEAD_LETTERS_LENGTH],
            )

    async def dead_letters(self, newest: int) -> list[DeadLetter]:
        """The newest dead letters, oldest first."""
        with bus_errors_async():
            entries: Any = await self._client.xrevrange(keys.DEAD_LETTERS, count=newest)
        return [_dead_letter(id, fields) for id, fields in reversed(entries)]


def _dead_letter(id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    set_aside_ms = int(id.partition(b"-")[0])
    texts = (
        fields.get(name, b"").decode(errors="replace")
        for name in (b"group", b"stream", b"id", b"reason", b"content")
    )
    return DeadLetter(datetime.fromtimestamp(set_aside_ms / 1_000, UTC), *texts)
