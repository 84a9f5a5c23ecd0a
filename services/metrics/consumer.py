"""A consumer of transitions or ended trainings: read, hand over, acknowledge."""

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
"""One name for ever: what it had not acknowledged when it ended is its own when it starts."""
BATCH = 250
"""Messages read at once."""
BLOCK_MS = 1_000

Handle = Callable[[Sequence[Any]], Awaitable[None]]
"""Takes messages in; when it raises, it has taken in none of them."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Consumer:
    """Hands every message of a log to `handle`, oldest first; acknowledges when that has returned.

    At least once: what was handed over and not acknowledged when the process ended is handed over
    again. When `handle` raises, the messages are handed over one by one, and those that it raises
    on again become dead letters; so do entries that are no message. It waits for Redis.
    """

    bus: Bus
    group: str
    handle: Handle
    unreadable: Counter
    """Entries that are no message."""
    dead_letters: Counter
    """Entries set aside, those that are no message included."""
    log: Log[Any] = TRANSITIONS
    at_once: int = BATCH
    """Messages that `handle` takes in whole or not at all."""

    async def run(self) -> None:
        """Go on until cancelled."""
        pending, outage = True, Outage(group=self.group)
        while True:
            try:
                entries = await self.bus.read_group(
                    self.group, CONSUMER, BATCH, BLOCK_MS, pending=pending, log=self.log
                )
            except BusAway as error:
                # What Redis handed out just before it went is among the pending.
                pending = True
                outage.begin(error)
                await asyncio.sleep(BUS_RETRY_SECONDS)
                continue
            outage.end()
            if entries:
                await self._take_in(entries)
            pending = bool(entries) if pending else not entries

    async def _take_in(self, entries: Sequence[tuple[str, Any]]) -> None:
        messages = []
        for id, message in entries:
            if isinstance(message, Unreadable):
                self.unreadable.inc()
                await self._set_aside(id, message.reason, message.content)
            else:
                messages.append((id, message))
        for start in range(0, len(messages), self.at_once):
            await self._hand_over(messages[start : start + self.at_once])
        ids = [id for id, _ in messages]
        await self._patiently(lambda: self.bus.acknowledge(self.group, ids, self.log))

    async def _hand_over(self, messages: Sequence[tuple[str, Any]]) -> None:
        try:
            await self.handle([message for _, message in messages])
        except BusAway:
            raise
        except Exception as error:  # noqa: BLE001 - the consumer goes on, whatever a message holds
            if len(messages) > 1:
                for one in messages:
                    await self._hand_over([one])
            else:
                ((id, message),) = messages
                await self._set_aside(id, reason_of(error), message.model_dump_json().encode())

    async def _set_aside(self, id: str, reason: str, content: bytes) -> None:
        """Keep an entry as a dead letter, to be seen with `autopilot dead-letters`."""
        await self._patiently(lambda: self.bus.set_aside(self.group, self.log, id, reason, content))
        self.dead_letters.inc()
        stream = self.log.stream
        _log.error("entry_set_aside", group=self.group, stream=stream, id=id, reason=reason)

    async def _patiently(self, call: Callable[[], Awaitable[None]]) -> None:
        """Until Redis takes it: read again instead, what is handed over would be counted twice."""
        await until_back(call, Outage(group=self.group))
