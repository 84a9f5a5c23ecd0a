"""The connection to Redis, and its ways of not serving as one error."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError

from shared.errors import BadSetting, BusAway

SOCKET_TIMEOUT_SECONDS = 5.0
CONNECTIONS = 32
"""Of one process; a call beyond waits for its turn."""


class Connection:
    """A client of Redis for asyncio, shared by the parts of the bus."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str) -> Self:
        """A bus at a Redis URL; connects with its first call. Raises `BadSetting` for a bad URL."""
        try:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=SOCKET_TIMEOUT_SECONDS,
                socket_timeout=SOCKET_TIMEOUT_SECONDS,
                socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
                retry=AsyncRetry(NoBackoff(), 1),
            )
        except ValueError as error:
            shown = re.sub("//[^/]*@", "//...@", url)  # it may have a password
            raise BadSetting(f"AUTOPILOT_REDIS_URL={shown}: {error}") from error
        return cls(redis.asyncio.Redis.from_pool(pool))

    async def close(self) -> None:
        await self._client.aclose()

    async def ping(self) -> None:
        """Raises `BusAway` unless Redis answers."""
        with asking():
            await self._client.ping()


def wait_for_redis(url: str, seconds: float) -> None:
    """Return when Redis answers; raises `BusAway` after `seconds`."""
    client = redis.Redis.from_url(url, socket_connect_timeout=1)
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > deadline:
                raise BusAway(f"Redis does not answer within {seconds:g} s: {error}") from error
            time.sleep(0.05)
        finally:
            client.close()


@contextmanager
def asking() -> Iterator[None]:
    """`away`, for asyncio."""
    with away():
        yield
    # `asyncio.wait_for` of Python 3.11, which redis-py sends with, may swallow a cancellation:
    # the task would go on for ever, and whoever waits for its end with it.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def away() -> Iterator[None]:
    """Redis's ways of not serving, as one error."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, OSError) as error:
        raise BusAway(f"Redis does not answer: {error}; check AUTOPILOT_REDIS_URL") from error
    except redis.ResponseError as error:
        # Redis 6 says it within a script's error, Redis 7 with an error code of its own.
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
            raise BusAway("Redis is out of memory: raise its maxmemory") from error
        raise
