"""Streams that consumer groups read: each message is acknowledged when it is done with."""

from collections.abc import Sequence
from typing import Any

import redis

from shared.bus.connection import Connection, asking
from shared.bus.entries import entries_of, readable
from shared.bus.keys import TRANSITIONS, Log


class Groups(Connection):
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

        None is an entry that is no such message, or was trimmed before it was acknowledged. A group
        that went with Redis's data is made again.
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
        return [(id, readable(log.message, content)) for _, id, content in entries_of(answer)]

    async def acknowledge(
        self, group: str, ids: Sequence[str], log: Log[Any] = TRANSITIONS
    ) -> None:
        """Tell the group that these messages are done with."""
        if ids:
            with asking():
                await self._client.xack(log.stream, group, *ids)
