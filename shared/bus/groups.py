"""Consumer groups on streams: each message is acknowledged after it was processed."""

from collections.abc import Sequence
from typing import Any

import redis

from shared.bus.connection import bus_errors_async
from shared.bus.dead_letters import DeadLetters
from shared.bus.entries import Unreadable, entries_of, read
from shared.bus.keys import TRANSITIONS, Log
from shared.messages import Message


class Groups(DeadLetters):
    """Transitions and ended trainings, for consumers that must process every one."""

    async def open_group(self, group: str, log: Log[Any] = TRANSITIONS) -> None:
        """Create a consumer group that starts at the oldest stored message; idempotent."""
        with bus_errors_async():
            try:
                await self._client.xgroup_create(log.stream, group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read_group(
        self,
        group: str,
        consumer: str,
        count: int,
        block_ms: int,
        *,
        pending: bool = False,
        log: Log[Any] = TRANSITIONS,
    ) -> list[tuple[str, Any]]:
        """``(id, message)`` pairs for a consumer: new ones, or its own `pending` ones.

        `Unreadable` stands for an entry that is not such a message, or that was trimmed before it
        was acknowledged. A group that was lost with Redis's data is created again.
        """
        position = "0" if pending else ">"
        with bus_errors_async():
            try:
                answer = await self._client.xreadgroup(
                    group, consumer, {log.stream: position}, count=count, block=block_ms
                )
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self.open_group(group, log)
                return []
        return [(id, _message(log.message, fields)) for _, id, fields in entries_of(answer)]

    async def acknowledge(
        self, group: str, ids: Sequence[str], log: Log[Any] = TRANSITIONS
    ) -> None:
        """Acknowledge messages that were processed."""
        if ids:
            with bus_errors_async():
                await self._client.xack(log.stream, group, *ids)


def _message(kind: type[Message], fields: dict[bytes, bytes]) -> Message | Unreadable:
    if not fields:
        return Unreadable("it was trimmed from the stream before it was acknowledged", b"")
    if b"message" not in fields:
        return Unreadable("it has no field `message`", repr(fields).encode())
    return read(kind, fields[b"message"])
