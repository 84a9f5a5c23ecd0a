"""Streams that consumer groups read: each message is acknowledged when it is done with."""

from collections.abc import Sequence
from typing import Any

import redis

from shared.bus.connection import asking
from shared.bus.dead_letters import DeadLetters
from shared.bus.entries import Unreadable, entries_of, read
from shared.bus.keys import TRANSITIONS, Log
from shared.messages import Message


class Groups(DeadLetters):
    """Transitions and ended trainings, for those who must see every one."""

    async def open_group(self, group: str, log: Log[Any] = TRANSITIONS) -> None:
        """Make a consumer group that starts at the oldest message kept; idempotent."""
        with asking():
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
        """Messages for a consumer, with their ids: new ones, or its own not yet acknowledged.

        `Unreadable` is an entry that is no such message, or was trimmed before it was acknowledged.
        A group that went with Redis's data is made again.
        """
        position = "0" if pending else ">"
        with asking():
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
        """Tell the group that these messages are done with."""
        if ids:
            with asking():
                await self._client.xack(log.stream, group, *ids)


def _message(kind: type[Message], fields: dict[bytes, bytes]) -> Message | Unreadable:
    if not fields:
        return Unreadable("it was trimmed from the stream before it was acknowledged", b"")
    if b"message" not in fields:
        return Unreadable("it has no field `message`", repr(fields).encode())
    return read(kind, fields[b"message"])
