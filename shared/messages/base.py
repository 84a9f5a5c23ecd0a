"""The base class of all messages, and the types of their fields."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

MAX_SERVERS_EVER = 1_000_000
"""Game servers. Above this a demand is a mistake, not a game."""
MAX_PLAYERS_EVER = 1_000_000_000
"""Players, or their tickets. The largest games have had a few million at once."""
MAX_PLAYERS_PER_SERVER = 1_000_000
"""Players. A server for more than this is a whole data centre."""
MAX_AGE_SECONDS = 366 * 86_400.0
"""A year: an age above it is a time, such as seconds since 1970, sent as an age."""
MAX_SEQUENCE = 2**63 - 1
"""The largest signed integer of 64 bits, which is what senders and databases count with."""
MAX_TEXT = 200
"""Most characters of a name from outside: a source, a version, an idempotency key."""


def _written_out(moment: object) -> object:
    """Refuse numbers, which pydantic would take as seconds or milliseconds by their size."""
    if isinstance(moment, datetime) or (isinstance(moment, str) and "-" in moment[1:]):
        return moment
    raise ValueError("write a time as RFC 3339, such as 2026-11-22T20:33:01Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time is within the years 1 to 9999 in UTC") from None


FleetId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
"""A pool of game servers; also a folder of the policy store and a part of Redis keys."""
Servers = Annotated[float, Field(strict=True, ge=0, le=MAX_SERVERS_EVER, allow_inf_nan=False)]
ServerCount = Annotated[int, Field(strict=True, ge=0, le=MAX_SERVERS_EVER)]
"""Game servers in one state."""
ServersUp = Annotated[int, Field(strict=True, ge=0, le=3 * MAX_SERVERS_EVER)]
"""The sum of three `ServerCount`: allocated, ready and reserved."""
Players = Annotated[float, Field(strict=True, ge=0, le=MAX_PLAYERS_EVER, allow_inf_nan=False)]
PlayersPerServer = Annotated[
    float, Field(strict=True, gt=0, le=MAX_PLAYERS_PER_SERVER, allow_inf_nan=False)
]
TicketCount = Annotated[int, Field(strict=True, ge=0, le=MAX_PLAYERS_EVER)]
"""Matchmaking tickets; each is a player at least."""
AgeSeconds = Annotated[float, Field(strict=True, ge=0, le=MAX_AGE_SECONDS, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_SEQUENCE)]
"""Steps, or a sender's sequence number."""
Utc = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
Behaviour = tuple[Finite, Positive]
"""Mean and standard deviation of the distribution that an action was sampled from."""
Label = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]

Fallback = Literal["no_policy", "stale_decision", "stale_demand"]


class Message(BaseModel):
    """The base class of messages.

    Releases run next to each other during an upgrade, and one may be rolled back: fields that only
    another release knows are ignored, as is what `of_any_release` cuts off. Requests over HTTP are
    read strictly, by `parse`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")


def of_any_release(kind: Any) -> BeforeValidator:
    """For a named tuple in a field: cuts off the elements that a later release has appended."""

    def cut(value: object) -> object:
        return value[: len(kind._fields)] if isinstance(value, list) else value

    return BeforeValidator(cut)


STRICT = ConfigDict(json_schema_extra={"additionalProperties": False})
"""Documents a request body as `parse` reads it: other fields are refused."""


def utc_now() -> datetime:
    """The clock of the entry points; all other code gets the time passed in."""
    return datetime.now(UTC)
