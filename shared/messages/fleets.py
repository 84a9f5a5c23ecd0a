"""Messages for and from operators: explanations of decisions, modes of fleets."""

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
    """How a fleet's newest decision came about; in servers unless stated otherwise.

    Field names are stored, so they stay: `ask` and `asks` are requested targets, `told_before` is
    a recommended target, `answers` are actions, and `moves` are the guards' effects.
    """

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step at which the target applies."""
    decided_at: Utc
    policy_version: str
    fallback: Fallback | None = None
    observation: dict[str, float | None]
    """The policy's observation by field; None where history is too short."""
    demands: tuple[Finite, ...]
    """The last `history_len` demands, oldest first: the observation of the rule."""
    answers: tuple[Finite, ...] = ()
    """The experts' actions, in the order of `PolicyManifest.experts`; none for a held target."""
    weights: tuple[Finite, ...] = ()
    """The experts' weights."""
    margin: Finite = 0.0
    """The adapted safety margin, as an action: added to the weighted mean."""
    action: Finite
    ask: Finite
    """The requested target, before the guards: the action in servers, or the held target."""
    reported_demand: Servers
    told_before: Servers | None
    asks: tuple[Finite, ...]
    """Earlier requested targets, as many as the stabilization window (`scale_down_delay`) needs."""
    floor: NotNegative
    scheduled: NotNegative
    moves: tuple[Annotated[GuardEffect, of_any_release(GuardEffect)], ...]
    """The effect of each guard in force, in their order."""
    target: Servers


class FleetMode(Message):
    """The mode of a fleet, shadow or live, as an operator has set it."""

    fleet: FleetId
    shadow: bool
    """True: callers get 503, unless their request says `shadow=true`."""
    since: Utc
