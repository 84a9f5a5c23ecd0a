"""One sidecar of several tells what the fleets do: two would each know half of the steps."""

import asyncio
import socket
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from shared.bus import Bus
from shared.errors import BusAway
from shared.resilience import cancelled

WORK = "metrics"
GONE_SECONDS = 10.0
"""A sidecar that says nothing for so long has lost its turn."""
RENEW_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class LeaderLease:
    """Does its parts while it is this sidecar's turn, and calls `lost` when that is over."""

    def __init__(
        self,
        bus: Bus,
        parts: Mapping[str, Callable[[], Coroutine[Any, Any, None]]],
        lost: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._parts = parts
        self._lost = lost
        self._name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Take the turn and keep it, until cancelled. While Redis is away nothing changes."""
        try:
            while True:
                try:
                    mine = await self._bus.take_lease(WORK, self._name, GONE_SECONDS)
                except BusAway as error:
                    _log.debug("turn_not_renewed", reason=str(error))
                else:
                    if mine and not self._tasks:
                        self._tasks = [asyncio.create_task(part()) for part in self._parts.values()]
                        _log.info("turn_taken")
                    elif self._tasks and not mine:
                        await self._end_tasks()
                        self._lost()
                        _log.warning("turn_lost")
                await asyncio.sleep(RENEW_SECONDS)
        finally:
            await self._end_tasks()

    async def end(self) -> None:
        """When `run` is over: the next sidecar need not wait."""
        try:
            await self._bus.end_lease(WORK, self._name)
        except BusAway as error:
            _log.debug("turn_not_ended", reason=str(error))

    async def _end_tasks(self) -> None:
        await cancelled(*self._tasks)
        self._tasks = []
