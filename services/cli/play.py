"""Plays demand like a matchmaker: posts it to the matchmaking service, step by step."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import structlog

from services.cli.demand import players_per_server as checked
from services.cli.traces import read_trace
from shared.core.curves import PEAK_FRACTION, sine1h
from shared.errors import BadInput
from shared.http.bearer import Bearer, bearer_for
from shared.http.tokens import REPORTERS, Tokens
from shared.messages import MAX_SERVERS_EVER, utc_now
from shared.resilience import Outage

REQUEST_TIMEOUT_SECONDS = 5.0
AWAY_SECONDS = 0.5
"""Wait before a retry while the matchmaking service is unavailable."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Matchmaker:
    """Posts the demand of one fleet."""

    url: str
    """Base address of the matchmaking service."""
    fleet: str
    tokens: Tokens
    give_way_s: float = 0.0
    """Age of the reports: a newer one of another sender takes precedence for this long."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def play(self, demands: Iterable[float], steps_per_second: float) -> int:
        """Post demands (servers) at a steady rate. Returns how many were accepted.

        It waits for a service that is unavailable, and skips demand that is late, like a real
        matchmaker. Raises `BadInput` if a demand is refused, or none was accepted.
        """
        accepted, outage = 0, Outage("matchmaking_is_away", "matchmaking_is_back", url=self.url)
        with httpx.Client(timeout=REQUEST_TIMEOUT_SECONDS, auth=self._auth()) as client:
            start = self.clock()
            for number, demand in enumerate(demands):
                behind = self.clock() - start - number / steps_per_second
                if behind > max(1.0, 1 / steps_per_second):
                    continue
                self.sleep(max(0.0, -behind))
                posted = self._post(client, demand)
                accepted += posted
                if posted:
                    outage.end()
                else:
                    outage.begin("it does not take demand")
                    self.sleep(AWAY_SECONDS)
        if not accepted:
            raise BadInput(
                f"{self.url} took no demand: start the platform there (autopilot up --no-play), "
                "or name another address with --url"
            )
        return accepted

    def _auth(self) -> Bearer | None:
        try:
            return bearer_for(self.url, self.tokens, REPORTERS)
        except httpx.InvalidURL as error:
            raise BadInput(f"{self.url} is no address ({error}): write http://host:port") from error

    def _post(self, client: httpx.Client, demand: float) -> bool:
        report = {"fleet": self.fleet, "num_of_gameservers": demand, "source": "autopilot play"}
        if self.give_way_s:
            report["observed_at"] = (utc_now() - timedelta(seconds=self.give_way_s)).isoformat()
        try:
            response = client.post(f"{self.url}/demand", json=report)
        except httpx.TransportError:
            return False
        if response.status_code in (401, 403, 404, 421, 422):
            raise BadInput(f"{self.url} refuses demand: {response.json().get('detail')}")
        return response.is_success


def trace_demands(path: Path, players_per_server: float, *, repeat: bool) -> Iterator[float]:
    """Demand in servers, one row per step; without end if `repeat`."""
    servers = read_trace(path).demand / checked(players_per_server)
    if servers.max() > MAX_SERVERS_EVER:
        raise BadInput(
            f"{path}: demand goes up to {servers.max():g} servers: raise --players-per-server"
        )
    values = servers.tolist()
    return itertools.cycle(values) if repeat else iter(values)


def sine_demands(max_servers: float) -> Iterator[float]:
    """The notebook's `sine1h` without end, one point per step."""
    return (sine1h(step, PEAK_FRACTION * max_servers) for step in itertools.count(1))
