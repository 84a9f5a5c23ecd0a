"""Leader election: one of several sidecars exports metrics, since two would split the steps."""

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
LEASE_SECONDS = 10.0
"""A leader that does not renew its lease for this time has lost it."""
RENEW_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class LeaderLease:
    """Runs `parts` while this sidecar is the leader, and calls `lost` when it is not any more."""

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
        """Take and renew the lease until cancelled. In an outage of Redis nothing changes."""
        try:
            while True:
                try:
                    mine = await self._bus.take_lease(WORK, self._name, LEASE_SECONDS)
                except BusAway as error:
                    _log.debug("leader_lease_not_renewed", reason=str(error))
                else:
                    if mine and not self._tasks:
                        self._tasks = [asyncio.create_task(part()) for part in self._parts.values()]
                        _log.info("leader_lease_taken")
                    elif self._tasks and not mine:
                        await self._end_tasks()
                        self._lost()
                        _log.warning("leader_lease_lost")
                await asyncio.sleep(RENEW_SECONDS)
        finally:
            await self._end_tasks()

    async def end(self) -> None:
        """End the lease after `run`, so that the next leader need not wait."""
        try:
            await self._bus.end_lease(WORK, self._name)
        except BusAway as error:
            _log.debug("leader_lease_not_ended", reason=str(error))

    async def _end_tasks(self) -> None:
        await cancelled(*self._tasks)
        self._tasks = []
