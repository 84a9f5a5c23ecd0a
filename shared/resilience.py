"""What goes wrong for a while: outages logged once, calls until they succeed, tasks restarted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from shared.errors import BusAway

BUS_RETRY_SECONDS = 0.5
"""Between two calls while Redis is away."""
RESTART_SECONDS = 1.0
"""Before a task that has failed is started again."""
STOP_SECONDS = 5.0
"""How long cancelled tasks may take: a library that swallows a cancellation must not hold us up."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Outage:
    """Something that may be away: logged as it begins, and as it is over."""

    def __init__(
        self, begins: str = "redis_is_away", ends: str = "redis_is_back", **fields: Any
    ) -> None:
        """`begins` and `ends` are the events; `fields` are those of both."""
        self._begins = begins
        self._ends = ends
        self._fields = fields
        self.under_way = False

    def begin(self, reason: object, **fields: Any) -> None:
        """It does not answer."""
        if not self.under_way:
            self.under_way = True
            _log.warning(self._begins, **self._fields, **fields, reason=str(reason))

    def end(self, **fields: Any) -> None:
        """It answers."""
        if self.under_way:
            self.under_way = False
            _log.info(self._ends, **self._fields, **fields)


async def until_back(call: Callable[[], Awaitable[T]], outage: Outage) -> T:
    """Call until Redis answers."""
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
    """Work for ever: what fails or ends is logged, and starts again."""
    while True:
        try:
            await work()
            _log.error("task_ended", task=name)
        except Exception:  # noqa: BLE001 - one part's fault must not stop the others
            _log.exception("task_failed", task=name)
        await asyncio.sleep(restart_seconds)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
