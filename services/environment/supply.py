"""The servers that a fleet really has, as its controller or its matchmaker reports them."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime

import structlog

from shared.bus import Bus
from shared.core.lead_time import LeadTime, observed, recommended
from shared.core.parameters import FleetParameters
from shared.core.recommendation import whole_servers
from shared.errors import BusAway
from shared.messages import FleetSupply, LeadTimes
from shared.resilience import Outage

LONGEST_REREAD_SECONDS = 2.0
REREADS_PER_STEP = 10
"""Reads of Redis per step of the fastest fleet."""
PATIENCE = 10.0
"""Multiple of the assumed lead time after which a pending raise is dropped."""

_log = structlog.get_logger(__name__)


class Supplies:
    """The newest supply that controllers report, read from Redis for all fleets at once."""

    def __init__(self, bus: Bus, fleets: Sequence[str], shortest_step_s: float) -> None:
        self._bus = bus
        self._fleets = fleets
        self._reread_s = min(LONGEST_REREAD_SECONDS, shortest_step_s / REREADS_PER_STEP)
        self._newest: dict[str, FleetSupply] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._outage = Outage("supplies_not_read", "supplies_read_again")

    async def newest(self, fleet: str) -> FleetSupply | None:
        """A fleet's supply, if its controller reports it; None also while Redis is unavailable."""
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at > self._reread_s:
                await self._read()
                self._read_at = time.monotonic()
        return self._newest.get(fleet)

    async def _read(self) -> None:
        try:
            self._newest = await self._bus.newest_supplies(self._fleets)
        except BusAway as error:
            self._newest = {}
            self._outage.begin(error)
        else:
            self._outage.end()


def newer(*supplies: FleetSupply | None) -> FleetSupply | None:
    """The newest of the given supplies; None if there is none."""
    return max((each for each in supplies if each is not None), key=_at, default=None)


def _at(supply: FleetSupply) -> datetime:
    return supply.at


def measured_lead_time(
    before: LeadTime | None,
    supply: FleetSupply | None,
    target: float,
    decided_at: datetime,
    parameters: FleetParameters,
    step_seconds: float,
) -> LeadTime | None:
    """A fleet's lead time measurements after a step; None where supply is not reported.

    `target` is the recommended target of the step, in servers.
    """
    lead = before
    if supply is not None and supply.supply.up is not None:
        patience_s = PATIENCE * parameters.history_len * step_seconds
        lead = observed(lead, supply.supply.up, supply.at.timestamp(), patience_s)
    if lead is None:
        return None
    return recommended(lead, whole_servers(target, parameters), decided_at.timestamp())


def lead_times_of(
    lead: LeadTime | None, parameters: FleetParameters, step_seconds: float
) -> LeadTimes | None:
    """The lead time as measured and as assumed; None while there is no measurement."""
    if lead is None or lead.seconds is None:
        return None
    return LeadTimes(measured_s=lead.seconds, assumed_s=parameters.history_len * step_seconds)
