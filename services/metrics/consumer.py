"""A consumer of transitions or ended trainings: read, process, acknowledge."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from shared.bus import TRANSITIONS, Bus, Log, Unreadable, reason_of
from shared.errors import BusAway
from shared.resilience import BUS_RETRY_SECONDS, Outage, until_back

CONSUMER = "metrics"
"""A constant name: after a restart, messages that were not acknowledged are still its own."""
BATCH = 250
"""Most messages per read."""
BLOCK_MS = 1_000

Handle = Callable[[Sequence[Any]], Awaitable[None]]
"""Processes messages; if it raises, it has processed none of them."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Consumer:
    """Passes every message of a log to `handle`, oldest first, and acknowledges it afterwards.

    Delivery is at least once: messages that were not acknowledged when the process ended are
    delivered again. If `handle` raises, the messages are passed one by one, and those on which it
    raises again become dead letters, as do entries that are not a message. It waits for Redis.
    """

    bus: Bus
    group: str
    handle: Handle
    unreadable: Counter
    """Entries that are not a message."""
    dead_letters: Counter
    """Entries set aside, including those that are not a message."""
    log: Log[Any] = TRANSITIONS
    at_once: int = BATCH
    """Most messages per call of `handle`."""

    async def run(self) -> None:
        """Consume until cancelled."""
        pending, outage = True, Outage(group=self.group)
        while True:
            try:
                entries = await self.bus.read_group(
                    self.group, CONSUMER, BATCH, BLOCK_MS, pending=pending, log=self.log
                )
            except BusAway as error:
                # Messages delivered just before the outage are pending.
                pending = True
                outage.begin(error)
                await asyncio.sleep(BUS_RETRY_SECONDS)
                continue
            outage.end()
            if entries:
                await self._process_all(entries)
            pending = bool(entries) if pending else not entries

    async def _process_all(self, entries: Sequence[tuple[str, Any]]) -> None:
        messages = []
        for id, message in entries:
            if isinstance(message, Unreadable):
                self.unreadable.inc()
                await self._set_aside(id, message.reason, message.content)
            else:
                messages.append((id, message))
        for start in range(0, len(messages), self.at_once):
            await self._process(messages[start : start + self.at_once])
        ids = [id for id, _ in messages]
        await self._until_bus_back(lambda: self.bus.acknowledge(self.group, ids, self.log))

    async def _process(self, messages: Sequence[tuple[str, Any]]) -> None:
        try:
            await self.handle([message for _, message in messages])
        except BusAway:
            raise
        except Exception as error:  # noqa: BLE001 - a bad message must not stop the consumer
            if len(messages) > 1:
                for one in messages:
                    await self._process([one])
            else:
                ((id, message),) = messages
                await self._set_aside(id, reason_of(error), message.model_dump_json().encode())

    async def _set_aside(self, id: str, reason: str, content: bytes) -> None:
        """Store an entry as a dead letter, which `autopilot dead-letters` lists."""
        await self._until_bus_back(
            lambda: self.bus.set_aside(self.group, self.log, id, reason, content)
        )
        self.dead_letters.inc()
        stream = self.log.stream
        _log.error("entry_set_aside", group=self.group, stream=stream, id=id, reason=reason)

    async def _until_bus_back(self, call: Callable[[], Awaitable[None]]) -> None:
        """Call until Redis accepts: otherwise processed messages would be counted twice."""
        await until_back(call, Outage(group=self.group))
