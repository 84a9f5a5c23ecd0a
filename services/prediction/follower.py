"""Keeps the board and the champions as new as Redis has them, and Redis as new as the supplies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from services.prediction.fleet_states import Board
from services.prediction.supply_recorder import Supplies
from shared.bus import CHAMPIONS, DECISIONS, DEMANDS, MODES, Bus, reason_of
from shared.messages import Champion
from shared.policies.champions import Champions

RESTART_SECONDS = 1.0
STOP_SECONDS = 2.0

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def following(
    bus: Bus, board: Board, champions: Champions, supplies: Supplies
) -> AsyncIterator[None]:
    """Follow until the block ends; each fleet's champion is loaded before it begins."""

    async def follow() -> None:
        # Modes first: a fleet that was put in shadow is in it before any decision is heard.
        async for message in bus.follow(MODES, DECISIONS, DEMANDS, CHAMPIONS):
            try:
                if isinstance(message, Champion):
                    await champions.apply(message)
                else:
                    board.hear(message)
            except Exception as error:  # noqa: BLE001 - one fleet's must not stop the others'
                kind = type(message).__name__
                _log.error("message_not_taken", kind=kind, reason=reason_of(error))

    await champions.load_all()
    tasks = [
        asyncio.create_task(_for_ever(follow)),
        asyncio.create_task(_for_ever(champions.reload)),
        asyncio.create_task(_for_ever(supplies.record)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        # Bounded: a library that swallows the cancellation must not keep the service from ending.
        await asyncio.wait(tasks, timeout=STOP_SECONDS)


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Start the work again when it fails: without it the answers would silently grow old."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - logged, and tried again
            _log.exception("following_failed")
            await asyncio.sleep(RESTART_SECONDS)
