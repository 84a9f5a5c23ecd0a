"""What operators ask and say about a fleet."""

from typing import Annotated

from pydantic import Field

from shared.core.guards import GuardEffect
from shared.messages.base import (
    Fallback,
    Finite,
    FleetId,
    Message,
    NotNegative,
    Servers,
    Utc,
    of_any_release,
)


class Explanation(Message):
    """How a fleet's newest decision came about; numbers in servers unless they say otherwise."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step that the target is asked for at."""
    decided_at: Utc
    policy_version: str
    fallback: Fallback | None = None
    observation: dict[str, float | None]
    """What the policy saw, by the names of its fields; None: its history does not reach so far."""
    demands: tuple[Finite, ...]
    """The last `history_len`, oldest first: all that the plain rule sees."""
    answers: tuple[Finite, ...] = ()
    """The experts' actions, in the order of `PolicyManifest.experts`; none while one is held."""
    weights: tuple[Finite, ...] = ()
    """What each of them counted for."""
    margin: Finite = 0.0
    """Learnt while the policy serves, as an action: added to their average."""
    action: Finite
    ask: Finite
    """What the guards were given: the action in servers, or the target that was held."""
    reported_demand: Servers
    told_before: Servers | None
    asks: tuple[Finite, ...]
    """The asks before, as many as the scale-down delay looks back."""
    floor: NotNegative
    scheduled: NotNegative
    moves: tuple[Annotated[GuardEffect, of_any_release(GuardEffect)], ...]
    """What each guard in force made of the ask, in their order."""
    target: Servers


class FleetMode(Message):
    """Whether callers are told what is decided for a fleet, as an operator has said it."""

    fleet: FleetId
    shadow: bool
    """True: they are told 503 and why, unless they ask for the shadow's answer."""
    since: Utc
