"""Follows Redis: updates fleet states and champions, and records supplies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from services.prediction.fleet_states import FleetStates
from services.prediction.supply_recorder import Supplies
from shared.bus import CHAMPIONS, DECISIONS, DEMANDS, MODES, Bus, reason_of
from shared.messages import Champion
from shared.policies.champions import Champions
from shared.resilience import cancelled, supervised

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def following(
    bus: Bus, states: FleetStates, champions: Champions, supplies: Supplies
) -> AsyncIterator[None]:
    """Follow Redis during the block; each fleet's champion is loaded before it begins."""

    async def follow() -> None:
        # Modes first: a fleet must be in shadow before its first decision is processed.
        async for message in bus.follow(MODES, DECISIONS, DEMANDS, CHAMPIONS):
            try:
                if isinstance(message, Champion):
                    await champions.apply(message)
                else:
                    states.update(message)
            except Exception as error:  # noqa: BLE001 - an error in one fleet must not stop others
                kind = type(message).__name__
                _log.error("message_not_taken", kind=kind, reason=reason_of(error))

    await champions.load_all()
    tasks = [
        asyncio.create_task(supervised(name, work))
        for name, work in {
            "follow": follow,
            "reload_champions": champions.reload,
            "record_supplies": supplies.record,
        }.items()
    ]
    try:
        yield
    finally:
        await cancelled(*tasks)
