"""Waiting for an event in a test: for what is read to be so, never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
Errors = tuple[type[Exception], ...]

PATIENCE_SECONDS = 60.0
"""For a busy machine; what waits so long has failed."""
EVERY_SECONDS = 0.02


def eventually(
    read: Callable[[], T],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    *,
    holds: Callable[[T], object] = bool,
    not_yet: Errors = (),
) -> T:
    """The first value read for which `holds`, by default the first that is true.

    An error of the kinds `not_yet` is a value for which it does not hold. After `seconds` an
    AssertionError says what was awaited, and the last value.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen: object
        try:
            seen = value = read()
            if holds(value):
                return value
        except not_yet as error:
            seen = error
        if time.monotonic() > deadline:
            raise _never(what, seconds, seen)
        time.sleep(EVERY_SECONDS)


async def eventually_async(
    read: Callable[[], Awaitable[T] | T],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    *,
    holds: Callable[[T], object] = bool,
    not_yet: Errors = (),
) -> T:
    """`eventually`, while the event loop goes on; what is read may have to be awaited."""
    deadline = time.monotonic() + seconds
    while True:
        seen: object
        try:
            found = read()
            seen = value = await found if isinstance(found, Awaitable) else found
            if holds(value):
                return value
        except not_yet as error:
            seen = error
        if time.monotonic() > deadline:
            raise _never(what, seconds, seen)
        await asyncio.sleep(EVERY_SECONDS)


def _never(what: str, seconds: float, seen: object) -> AssertionError:
    return AssertionError(f"not within {seconds:g} s: {what}; the last was {seen!r}")
