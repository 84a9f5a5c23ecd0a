"""Resilience: outages that are logged once, calls that are retried, supervised tasks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from shared.errors import BusAway

BUS_RETRY_SECONDS = 0.5
"""Between two calls while Redis is unavailable."""
RESTART_SECONDS = 1.0
"""Before a failed task is restarted."""
STOP_SECONDS = 5.0
"""Most time for cancelled tasks to end: a library may swallow a cancellation."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Outage:
    """A dependency that may be unavailable; logs the begin and the end of each outage."""

    def __init__(
        self, begins: str = "redis_is_away", ends: str = "redis_is_back", **fields: Any
    ) -> None:
        """`begins` and `ends` are the log events; `fields` are fields of both."""
        self._begins = begins
        self._ends = ends
        self._fields = fields
        self.under_way = False

    def begin(self, reason: object, **fields: Any) -> None:
        """The dependency is unavailable; logged if it was available before."""
        if not self.under_way:
            self.under_way = True
            _log.warning(self._begins, **self._fields, **fields, reason=str(reason))

    def end(self, **fields: Any) -> None:
        """The dependency is available; logged if it was not before."""
        if self.under_way:
            self.under_way = False
            _log.info(self._ends, **self._fields, **fields)


async def until_back(call: Callable[[], Awaitable[T]], outage: Outage) -> T:
    """Call until it raises no `BusAway`. Returns the result."""
    while True:
        try:
            answer = await call()
        except BusAway as error:
            outage.begin(error)
            await asyncio.sleep(BUS_RETRY_SECONDS)
        else:
            outage.end()
            return answer


async def supervised(
    name: str, work: Callable[[], Awaitable[None]], restart_seconds: float = RESTART_SECONDS
) -> None:
    """Run a task without end: if it fails or returns, that is logged, and it is restarted."""
    while True:
        try:
            await work()
            _log.error("task_ended", task=name)
        except Exception:  # noqa: BLE001 - an error in one task must not stop the others
            _log.exception("task_failed", task=name)
        await asyncio.sleep(restart_seconds)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end, at most `STOP_SECONDS`."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
