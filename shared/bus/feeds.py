"""Feeds: the latest message of each fleet, and a stream of all changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
import structlog

from shared.bus import keys
from shared.bus.connection import Connection, bus_errors_async
from shared.bus.entries import entries_of, readable
from shared.bus.keys import Feed, M
from shared.errors import BusAway
from shared.messages import Message
from shared.resilience import BUS_RETRY_SECONDS, Outage

PAGE = 1_000
"""Stream entries in one answer, about 1 MB, when a stream is read backwards."""
FOLLOW_BLOCK_MS = 1_000
FOLLOW_BATCH = 500

_PUBLISH = """
-- KEYS: state, changes; ARGV: fleet, message, length
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'fleet', ARGV[1], 'message', ARGV[2])
"""

_log = structlog.get_logger(__name__)


class Feeds(Connection):
    """Publishes, reads and follows feeds."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._publish = client.register_script(_PUBLISH)

    async def publish(self, feed: Feed[M], fleet: str, message: M) -> None:
        """Make a message its fleet's latest, and append it to the stream of changes."""
        with bus_errors_async():
            await self._publish(
                keys=[feed.state, feed.changes],
                args=[fleet, message.model_dump_json(), keys.CHANGES_LENGTH],
            )

    async def latest(self, feed: Feed[M]) -> dict[str, M]:
        """The latest message of every fleet."""
        with bus_errors_async():
            state: dict[Any, Any] = await self._client.hgetall(feed.state)
        messages = {k.decode(errors="replace"): readable(feed.message, v) for k, v in state.items()}
        return {fleet: message for fleet, message in messages.items() if message is not None}

    async def newest_changes(self, feed: Feed[M], fleet: str, count: int | None = None) -> list[M]:
        """A fleet's changes in the stream, oldest first; only the newest `count`, if given."""
        found: list[M] = []
        async for change in self._backwards(feed.changes, feed.message, fleet):
            if len(found) == count:
                break
            found.append(change)
        return found[::-1]

    async def _latest(self, feed: Feed[M], fleet: str) -> M | None:
        with bus_errors_async():
            content: Any = await self._client.hget(feed.state, fleet)
        return None if content is None else readable(feed.message, content)

    async def follow(self, *feeds: Feed[Any]) -> AsyncIterator[Message]:
        """The latest message of every fleet in each feed, then every change, without end.

        Unreadable messages are logged and skipped. While Redis is unavailable it waits, and then
        starts again from the latest state.
        """
        by_stream = {feed.changes: feed for feed in feeds}
        outage = Outage()
        while True:
            try:
                positions: dict[Any, Any] = {
                    feed.changes: await self._end_of(feed.changes) for feed in feeds
                }
                for feed in feeds:
                    for message in (await self.latest(feed)).values():
                        yield message
                outage.end()
                while True:
                    with bus_errors_async():
                        answer = await self._client.xread(
                            positions, count=FOLLOW_BATCH, block=FOLLOW_BLOCK_MS
                        )
                    for stream, id, fields in entries_of(answer):
                        positions[stream] = id
                        content = fields.get(b"message", b"")
                        message = readable(by_stream[stream].message, content)
                        if message is not None:
                            yield message
            except BusAway as error:
                outage.begin(error)
                await asyncio.sleep(BUS_RETRY_SECONDS)

    async def _end_of(self, stream: str) -> str:
        with bus_errors_async():
            last: Any = await self._client.xrevrange(stream, count=1)
        return last[0][0].decode() if last else "0"

    async def _backwards(self, stream: str, message: type[M], fleet: str) -> AsyncIterator[M]:
        """A fleet's messages in a stream, newest first, a page at a time."""
        end = "+"
        while True:
            with bus_errors_async():
                page: Any = await self._client.xrevrange(stream, max=end, count=PAGE)
            for _, fields in page:
                if fields.get(b"fleet") == fleet.encode():
                    found = readable(message, fields.get(b"message", b""))
                    if found is not None:
                        yield found
            if len(page) < PAGE:
                return
            end = f"({page[-1][0].decode()}"
