"""A consumer of transitions or ended trainings: read, hand over, acknowledge."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from shared.bus import TRANSITIONS, Bus, Log
from shared.errors import BusAway

CONSUMER = "metrics"
"""One name for ever: what it had not acknowledged when it ended is its own when it starts."""
BATCH = 250
"""Messages handed over at once."""
BLOCK_MS = 1_000
BUS_RETRY_SECONDS = 0.5

Handle = Callable[[Sequence[Any]], Awaitable[None]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Consumer:
    """Hands every message of a log to `handle`, oldest first; acknowledges when that has returned.

    At least once: what was handed over and not acknowledged when the process ended is handed over
    again. Entries that are no message are counted and acknowledged. It waits for Redis.
    """

    bus: Bus
    group: str
    handle: Handle
    unreadable: Counter
    log: Log[Any] = TRANSITIONS

    async def run(self) -> None:
        """Go on until cancelled."""
        pending, away = True, False
        while True:
            try:
                entries = await self.bus.read_group(
                    self.group, CONSUMER, BATCH, BLOCK_MS, pending=pending, log=self.log
                )
            except BusAway as error:
                # What Redis handed out just before it went is among the pending.
                pending = True
                away = self._mark_away(away, error)
                await asyncio.sleep(BUS_RETRY_SECONDS)
                continue
            if away:
                away = False
                _log.info("redis_is_back", group=self.group)
            if entries:
                await self._hand_over([message for _, message in entries])
                await self._acknowledge([id for id, _ in entries])
            pending = bool(entries) if pending else not entries

    async def _hand_over(self, entries: Sequence[Any]) -> None:
        messages = [message for message in entries if message is not None]
        if messages:
            await self.handle(messages)
        self.unreadable.inc(len(entries) - len(messages))

    async def _acknowledge(self, ids: Sequence[str]) -> None:
        """Until Redis takes it: read again instead, they would be counted twice."""
        away = False
        while True:
            try:
                await self.bus.acknowledge(self.group, ids, self.log)
                return
            except BusAway as error:
                away = self._mark_away(away, error)
                await asyncio.sleep(BUS_RETRY_SECONDS)

    def _mark_away(self, away: bool, error: BusAway) -> bool:
        if not away:
            _log.warning("redis_is_away", group=self.group, reason=str(error))
        return True
