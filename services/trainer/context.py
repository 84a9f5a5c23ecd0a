"""What the training jobs of a process work with, and what ends a job that has not failed.

That is its worker's wish to end, or another worker. Training and writing obey a wish to end,
publishing runs to its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from shared.bus import Bus
from shared.policies.store import PolicyStore
from shared.settings import Fleets

T = TypeVar("T")


class TrainingStopped(BaseException):
    """The worker is asked to end: its job goes back to the queue. Not a failure of the job."""


class JobLost(BaseException):
    """Another worker has the job: this one gave no sign of life. Not a failure of the job."""


class Stop:
    """Lets a signal handler end the learning under way, and keep any from beginning."""

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def request(self) -> None:
        """Called by a signal handler of the main thread, which then calls `check`."""
        self.requested = True

    def check(self) -> None:
        """Raises `TrainingStopped` when a stop was asked for while it may be obeyed."""
        if self.requested and self._interruptible:
            raise TrainingStopped

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """The block may be stopped; what is outside, such as publishing, runs to its end."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False


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
