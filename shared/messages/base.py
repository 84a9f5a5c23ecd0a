"""What all messages have in common, and what their fields may hold."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

MAX_SERVERS_EVER = 1_000_000
"""Above this a demand is a mistake, not a game."""


def _written_out(moment: object) -> object:
    """Pydantic also takes a number for a time, of seconds or milliseconds as it sees fit."""
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
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Utc = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
Behaviour = tuple[Finite, Positive]
"""Mean and standard deviation that an action was drawn with."""
Label = Annotated[str, Field(min_length=1, max_length=200)]

Fallback = Literal["no_policy", "stale_decision", "stale_demand"]


class Message(BaseModel):
    """What every message has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def utc_now() -> datetime:
    """The clock of the entry points; everything else is handed the time."""
    return datetime.now(UTC)
