"""Sources of demand: a URL, or the notebook's own sine."""

import asyncio
import json
import math
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import httpx
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from shared.core.curves import PEAK_FRACTION, sine1h
from shared.errors import DemandMissing
from shared.messages import MAX_PLAYERS_EVER, MAX_SERVERS_EVER, Supply

ATTEMPTS = 3
LONGEST_TIMEOUT_SECONDS = 2.0
SHORTEST_TIMEOUT_SECONDS = 0.25
"""A demo's steps may be shorter than this; a response that a busy machine delays still counts."""
FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 0.5
ANSWER_LIMIT = 64 * 1024
"""Most bytes of a response, which may come from any server; ours has some hundred."""


class Reading(NamedTuple):
    """A matchmaker's report of a fleet; None for what it does not report."""

    demand: float
    """Game servers needed now."""
    supply: Supply | None = None
    tickets_waiting: int | None = None
    observed_at: datetime | None = None


class DemandSource(Protocol):
    """A source of a fleet's demand."""

    async def read(self, step: int) -> Reading:
        """The demand for a step; raises `DemandMissing`."""
        ...


class LocalSine:
    """The notebook's `local` demand: `sine1h`, one point per step."""

    def __init__(self, max_servers: float) -> None:
        self._peak = PEAK_FRACTION * max_servers

    async def read(self, step: int) -> Reading:
        """The curve's point for a step, in servers."""
        return Reading(sine1h(step, self._peak))


class HttpDemand:
    """Any URL that answers ``{"Prediction": {"num_of_gameservers": x}}``."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        requests: asyncio.Semaphore,
        url: str,
        fleet: str,
        period_s: float,
        auth: httpx.Auth | None = None,
    ) -> None:
        """`{fleet}` in the URL becomes the fleet's name; no attempt begins after half a period.

        `requests` bounds the concurrent requests over all fleets: httpx's own pool takes time that
        grows with the square of the requests that wait for it.
        """
        self._client = client
        self._requests = requests
        self._auth = auth
        self._url = url.replace("{fleet}", fleet)
        timeout = max(SHORTEST_TIMEOUT_SECONDS, min(LONGEST_TIMEOUT_SECONDS, period_s / 2))
        self._request = client.build_request("GET", self._url, timeout=timeout)
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(period_s / 2),
            wait=wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
            reraise=True,
        )

    async def read(self, step: int) -> Reading:  # noqa: ARG002 - a matchmaker knows no steps
        """The demand that the URL returns now, after retries."""
        reading: Reading = await self._retrying(self._once)
        return reading

    async def _once(self) -> Reading:
        try:
            async with self._requests:
                response = await self._client.send(self._request, auth=self._auth, stream=True)
                try:
                    content = await self._content(response)
                finally:
                    await response.aclose()
        except httpx.HTTPError as error:
            raise _Transient(f"{self._url} does not answer: {error!r}") from error
        if response.status_code in (500, 502, 504):
            raise _Transient(f"{self._url} answers {response.status_code}")
        if response.status_code != httpx.codes.OK:
            raise DemandMissing(
                f"{self._url} answers {response.status_code}: {_start_of(content, 200)}"
            )
        return _reading(self._url, content)

    async def _content(self, response: httpx.Response) -> bytes:
        content = b""
        async for part in response.aiter_bytes():
            content += part
            if len(content) > ANSWER_LIMIT:
                raise DemandMissing(
                    f"{self._url} answers more than {ANSWER_LIMIT} bytes: it must answer "
                    '{"Prediction": {"num_of_gameservers": x}}'
                )
        return content


class _Transient(DemandMissing):
    """Worth a retry."""


def _start_of(content: bytes, characters: int) -> str:
    return content[: 4 * characters].decode(errors="replace")[:characters]


def _reading(url: str, content: bytes) -> Reading:
    try:
        answer: Any = json.loads(content)
        demand = float(answer["Prediction"]["num_of_gameservers"])
    # Integers in JSON may be huge (OverflowError), and its nesting deep (RecursionError).
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DemandMissing(
            f'{url} must answer {{"Prediction": {{"num_of_gameservers": x}}}}, '
            f"but says {_start_of(content, 100)}"
        ) from error
    if not (math.isfinite(demand) and 0 <= demand <= MAX_SERVERS_EVER):
        raise DemandMissing(f"{url} answers {demand:g} servers, which can't be")
    return Reading(
        demand,
        _supply(answer.get("supply")),
        _count(answer.get("tickets_waiting"), MAX_PLAYERS_EVER),
        _time(answer.get("observed_at")),
    )


def _supply(reported: object) -> Supply | None:
    counts = reported if isinstance(reported, dict) else {}
    allocated, ready, reserved, starting = (
        _count(counts.get(name), MAX_SERVERS_EVER)
        for name in ("allocated", "ready", "reserved", "starting")
    )
    if allocated is None:
        return None
    return Supply(allocated=allocated, ready=ready, reserved=reserved, starting=starting)


def _time(value: object) -> datetime | None:
    """A time, or None for any other value, which a foreign URL may have under this name."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _count(value: object, most: int) -> int | None:
    """A count of at most `most`, or None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= most else None
