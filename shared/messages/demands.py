"""Reports of matchmakers and of fleets' controllers."""

from typing import Self

from pydantic import model_validator

from shared.messages.base import (
    MAX_SERVERS_EVER,
    STRICT,
    AgeSeconds,
    Count,
    FleetId,
    Label,
    Message,
    Players,
    PlayersPerServer,
    ServerCount,
    Servers,
    TicketCount,
    Utc,
)

SUPPLY_SECONDS = 120
"""How long a `FleetSupply` is valid; Agones reports it every 30 s by default."""


class Supply(Message):
    """Game servers by state, as the matchmaker or the fleet's controller counts them."""

    model_config = STRICT

    allocated: ServerCount | None = None
    ready: ServerCount | None = None
    reserved: ServerCount | None = None
    starting: ServerCount | None = None

    @property
    def up(self) -> int | None:
        """Game servers that players can be on; None where that is not reported."""
        if self.allocated is None or self.ready is None:
            return None
        return self.allocated + self.ready + (self.reserved or 0)


class FleetSupply(Message):
    """The supply that a fleet's controller reported, and when."""

    fleet: FleetId
    at: Utc
    supply: Supply


class DemandReport(Message):
    """A matchmaker's report: game servers needed now, or players and players per server."""

    model_config = STRICT

    fleet: FleetId = "default"
    num_of_gameservers: Servers | None = None
    ccu: Players | None = None
    """Players connected now."""
    players_per_server: PlayersPerServer | None = None
    observed_at: Utc | None = None
    source: Label | None = None
    seq: Count | None = None
    idempotency_key: Label | None = None
    tickets_waiting: TicketCount | None = None
    oldest_ticket_age_s: AgeSeconds | None = None
    supply: Supply | None = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if (self.num_of_gameservers is None) == (self.ccu is None):
            raise ValueError("give either num_of_gameservers or ccu, not both and not neither")
        if (self.ccu is None) != (self.players_per_server is None):
            raise ValueError(
                "ccu and players_per_server go together: demand = ccu / players_per_server"
            )
        if self.demand > MAX_SERVERS_EVER:
            raise ValueError(
                f"demand is {self.demand:g} servers; at most {MAX_SERVERS_EVER} is taken"
            )
        return self

    @property
    def demand(self) -> float:
        """Game servers needed now."""
        if self.num_of_gameservers is not None:
            return self.num_of_gameservers
        assert self.ccu is not None
        assert self.players_per_server is not None
        return self.ccu / self.players_per_server


class Demand(Message):
    """A demand report as recorded on the demand stream."""

    fleet: FleetId
    demand: Servers
    observed_at: Utc
    source: Label | None = None
    seq: Count | None = None
    tickets_waiting: TicketCount | None = None
    oldest_ticket_age_s: AgeSeconds | None = None
    supply: Supply | None = None
