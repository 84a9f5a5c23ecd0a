"""What the training jobs of a process work with."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from services.trainer.stop import Stop
from shared.bus import Bus
from shared.policies.store import PolicyStore
from shared.settings import Fleets

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """What the jobs of this process work with."""

    redis_url: str
    store: PolicyStore
    fleets: Fleets
    save_model: bool
    seed: int
    clock: Callable[[], datetime]
    stop: Stop
    num_env_runners: int = 0
    num_learners: int = 0

    def on_bus(self, use: Callable[[Bus], Awaitable[T]]) -> T:
        """Run something asynchronous on a bus of its own."""

        async def run() -> T:
            bus = Bus.connect(self.redis_url)
            try:
                return await use(bus)
            finally:
                await bus.close()

        return asyncio.run(run())
