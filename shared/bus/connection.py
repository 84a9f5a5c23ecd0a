"""The connection to Redis, and its failures as one error, `BusAway`."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, OutOfMemoryError

from shared.errors import BadSetting, BusAway

SOCKET_TIMEOUT_SECONDS = 5.0
CONNECTIONS = 32
"""Most connections of one process; further calls wait for a free one."""
SETTINGS = (
    "look at AUTOPILOT_REDIS_URL and AUTOPILOT_REDIS_PASSWORD_FILE; without both, .autopilot/redis.url "
    "of the folder where `autopilot up` runs has the password"
)


class Connection:
    """An asyncio client of Redis, shared by the parts of the bus."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str) -> Self:
        """A bus at a Redis URL; connects at its first call. Raises `BadSetting` for a bad URL."""
        with _reading(url):
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=SOCKET_TIMEOUT_SECONDS,
                socket_timeout=SOCKET_TIMEOUT_SECONDS,
                socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
                retry=AsyncRetry(NoBackoff(), 1),
            )
        return cls(redis.asyncio.Redis.from_pool(pool))

    async def close(self) -> None:
        await self._client.aclose()

    async def ping(self) -> None:
        """Raises `BusAway` unless Redis answers."""
        with bus_errors_async():
            await self._client.ping()


def connect_blocking(url: str, **options: Any) -> redis.Redis:
    """A blocking client; connects at its first call. Raises `BadSetting` for a bad URL."""
    with _reading(url):
        return redis.Redis.from_url(url, **options)


def wait_for_redis(url: str, seconds: float) -> None:
    """Wait until Redis answers; raises `BusAway` after `seconds`."""
    client = connect_blocking(url, socket_connect_timeout=1)
    deadline = time.monotonic() + seconds
    while True:
        try:
            with bus_errors():
                client.ping()
            return
        except BusAway as error:
            if time.monotonic() > deadline:
                raise BusAway(f"{error} (not within {seconds:g} s)") from error
            time.sleep(0.05)
        finally:
            client.close()


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Raise `BadSetting` for an address that redis-py can't parse, without its password.

    redis-py's own message is left out, since it may quote a part of the password.
    """
    try:
        yield
    except ValueError:
        shown = re.sub("//.*@", "//...@", url).partition("?")[0]
        raise BadSetting(
            f"AUTOPILOT_REDIS_URL={shown}: write redis://HOST:PORT/0, or rediss:// for TLS, and the "
            "signs : / ? # [ ] @ of a password as %3A %2F %3F %23 %5B %5D %40"
        ) from None


@contextmanager
def bus_errors_async() -> Iterator[None]:
    """`bus_errors` for asyncio: keeps cancellations that redis-py loses."""
    with bus_errors():
        yield
    # `asyncio.wait_for` of Python 3.11, which redis-py uses, may swallow a cancellation: the task
    # would run for ever, and block those who wait for its end.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def bus_errors() -> Iterator[None]:
    """Raise `BusAway` for every way in which Redis can be unavailable."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise BusAway(f"Redis refuses the password, or wants one: {SETTINGS}") from error
    except NoPermissionError as error:
        raise BusAway(
            f"Redis allows its user in AUTOPILOT_REDIS_URL too little: {error}; give it all commands "
            "on the keys autopilot:* and rq:*"
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, OSError) as error:
        raise BusAway(f"Redis does not answer: {error}; check AUTOPILOT_REDIS_URL") from error
    except redis.ResponseError as error:
        # Redis 6 reports it within a script's error, Redis 7 with an error code of its own.
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
            raise BusAway("Redis is out of memory: raise its maxmemory") from error
        raise
