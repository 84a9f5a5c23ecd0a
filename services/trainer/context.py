"""The context of a process's training jobs, and how a job is stopped without having failed.

A job stops when its worker is told to stop, or when another worker has taken it over. Training and
writing are interrupted by a stop; publishing is completed.
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
    """The worker was told to stop: its job goes back to the queue. Not a failure of the job."""


class JobLost(BaseException):
    """Another worker has the job, since this one sent no heartbeat. Not a failure of the job."""


class Stop:
    """Lets a signal handler stop the present training, and prevent further ones."""

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def request(self) -> None:
        """Called by a signal handler of the main thread, which then calls `check`."""
        self.requested = True

    def check(self) -> None:
        """Raises `TrainingStopped` if a stop was requested and the job may be interrupted."""
        if self.requested and self._interruptible:
            raise TrainingStopped

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """The block may be interrupted; code outside, such as publishing, is completed."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False


@dataclass(frozen=True, slots=True)
class Context:
    """The settings and dependencies of this process's jobs."""

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
        """Run a coroutine with a bus of its own. Returns its result."""

        async def run() -> T:
            bus = Bus.connect(self.redis_url)
            try:
                return await use(bus)
            finally:
                await bus.close()

        return asyncio.run(run())
