"""What ends a job that has not failed: its worker's wish to end, and another worker.

Learning and writing obey a wish to end, publishing runs to its end.
"""

from collections.abc import Iterator
from contextlib import contextmanager


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
