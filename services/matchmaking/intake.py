"""Batches demand reports: those of one event-loop tick go to Redis together."""

import asyncio
from typing import NamedTuple

from shared.bus import Bus, DemandReceipt, IdempotencyKey
from shared.errors import BusAway
from shared.messages import Demand

BATCH = 500
"""Most reports in one script call, which blocks Redis for about 3 ms."""


class _Waiting(NamedTuple):
    demand: Demand
    idempotency_key: IdempotencyKey | None
    receipt: asyncio.Future[DemandReceipt]


class Intake:
    """Records demands in batches; each caller gets a response only after Redis has accepted it.

    One batch is in flight at a time, while the next one is collected: batches grow with the load,
    and reports keep their order.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._gathering: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None

    async def record(self, demand: Demand, idempotency_key: IdempotencyKey | None) -> DemandReceipt:
        """Record one demand; raises `BusAway`, as for every caller of its batch.

        If a batch fails with any other error, its reports are recorded one by one, and only the
        caller of the failing report gets the error.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(demand, idempotency_key, loop.create_future())
        self._gathering.append(waiting)
        if self._sending is None:
            # The task starts in the next tick, after every request of this one.
            self._sending = loop.create_task(self._send_all())
        return await waiting.receipt

    async def _send_all(self) -> None:
        try:
            while self._gathering:
                batch = self._gathering[:BATCH]
                del self._gathering[:BATCH]
                await self._send(batch)
        finally:
            self._sending = None

    async def _send(self, batch: list[_Waiting]) -> None:
        try:
            receipts = await self._bus.record_demands(
                [waiting.demand for waiting in batch],
                [waiting.idempotency_key for waiting in batch],
            )
        except Exception as error:  # noqa: BLE001 - the callers must get any error
            if len(batch) > 1 and not isinstance(error, BusAway):
                for waiting in batch:
                    await self._send([waiting])
                return
            for waiting in batch:
                if not waiting.receipt.done():
                    waiting.receipt.set_exception(error)
            return
        for waiting, receipt in zip(batch, receipts, strict=True):
            if not waiting.receipt.done():
                waiting.receipt.set_result(receipt)
