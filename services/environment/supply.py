"""The servers that a fleet really has: what its controller or its matchmaker tells of them."""

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
"""Of the fleet that steps fastest."""
PATIENCE = 10.0
"""Times the assumed lead time after which nobody waits for a raise any more."""

_log = structlog.get_logger(__name__)


class Supplies:
    """The newest supply that controllers tell, read from Redis for all fleets in one round trip."""

    def __init__(self, bus: Bus, fleets: Sequence[str], shortest_step_s: float) -> None:
        self._bus = bus
        self._fleets = fleets
        self._reread_s = min(LONGEST_REREAD_SECONDS, shortest_step_s / REREADS_PER_STEP)
        self._newest: dict[str, FleetSupply] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._outage = Outage("supplies_not_read", "supplies_read_again")

    async def newest(self, fleet: str) -> FleetSupply | None:
        """A fleet's supply, if its controller told it lately; None also while Redis is away."""
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
    """The newest of those that there are."""
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
    """What is measured of a fleet's lead time after a step; None where supply is not reported.

    `target` is what the step tells, in servers.
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
    """The lead time as measured, beside what the environment assumes; None while it is not."""
    if lead is None or lead.seconds is None:
        return None
    return LeadTimes(measured_s=lead.seconds, assumed_s=parameters.history_len * step_seconds)
