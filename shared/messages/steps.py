"""The records of a fleet's step."""

from typing import Annotated, NamedTuple

from pydantic import Field

from shared.core.adaptation import FRESH, Adaptation
from shared.core.guards import GuardName
from shared.core.lead_time import LeadTime
from shared.messages.base import (
    Behaviour,
    Count,
    Fallback,
    Finite,
    FleetId,
    Message,
    NotNegative,
    Positive,
    Servers,
    ServersUp,
    Utc,
    of_any_release,
)
from shared.messages.demands import Supply


class LeadTimes(Message):
    """The lead time in seconds, as measured and as the environment assumes."""

    measured_s: NotNegative
    assumed_s: Positive


class Transition(Message):
    """The record of one step; in servers unless stated otherwise."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    at: Utc
    """When the step was due."""
    observation: tuple[Finite, ...]
    action: Finite
    target: Servers
    demand: Servers
    """Clipped to the fleet's limits."""
    reported_demand: Servers
    """As the matchmaker reported it, not clipped."""
    allocation: Servers
    reward: Finite
    next_observation: tuple[Finite, ...]
    done: bool = False
    """Last step of an episode of 301."""
    policy_version: str
    behaviour: Behaviour | None = None
    """The distribution that the action was sampled from; None if it was not sampled."""
    action_factor: Positive | None = None
    """Servers that an action of 1.0 meant; None (of an older release): the present setting."""
    stale: bool = False
    """Whether there was no fresh demand, and the last one was held. Never trained on."""
    gap_steps: Count = 0
    """Steps missed before this one, while no worker ran."""
    supply: Supply | None = None
    """The servers that the fleet really had, where reported; `allocation` is by the dynamics."""
    lead_times: LeadTimes | None = None
    floor: NotNegative = 0.0
    """The allocated floor of the decision after this step: servers in use, and for tickets."""


class Decision(Message):
    """A fleet's newest recommended target, with the policy that made it."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step at which the target applies."""
    target: Servers
    allocation: Servers
    """Servers that are up now: the target of `history_len` steps ago."""
    curr_demand: Servers
    """The newest demand that the decision is based on, as reported."""
    action: Finite
    observation: tuple[Finite, ...]
    policy_version: str
    decided_at: Utc
    fallback: Fallback | None = None
    guards: tuple[GuardName, ...] = ()
    """The guards that changed the policy's target, the last to act first."""


class FleetRecord(Message):
    """The state of a fleet after its last committed step.

    Field names are stored, so they stay: `asks` are requested targets.
    """

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The last committed step."""
    due_at: Utc
    """When that step was due; the next is due one `learning_freq` later."""
    demands: tuple[Finite, ...]
    targets: tuple[Finite, ...]
    reported_demand: Servers
    """The last demand known, as reported."""
    next_action: Finite
    """Decided after that step, for the next one."""
    next_policy_version: str
    next_behaviour: Behaviour | None = None
    """The distribution that this action was sampled from, if it was."""
    next_target: Servers | None = None
    """The recommended target for the next step; None (of an older release): the action's."""
    action_factor: Positive | None = None
    """Servers that an action of 1.0 meant, here and in `adaptation`; None as in `Transition`."""
    asks: tuple[Finite, ...] = ()
    """The newest requested targets, in servers, oldest first, for the stabilization window."""
    adaptation: Annotated[Adaptation, of_any_release(Adaptation)] = FRESH
    """The online adaptation of the policy `next_policy_version`."""
    untrained_steps: Count
    """Usable steps since the last training job was queued."""
    lead_time: LeadTime | None = None
    """Its measurements; None where supply is not reported."""


class RecordedStep(NamedTuple):
    """A step's demand, as the trainer replays it; a row of a list in Redis.

    Field names are those of the stored rows: `ask` is the requested target.
    """

    step: Count
    at: Finite
    """When the step was due, in seconds since 1970."""
    demand: Servers
    """As reported, in servers."""
    usable: bool
    """False for a held demand, which is never trained on."""
    gap_steps: Count
    """Steps missed before this one, which histories do not span."""
    ask: Finite | None = None
    """The requested target of this step, in servers, before the guards."""
    allocation: Servers | None = None
    """Servers up by this platform's decisions, in the notebook's dynamics."""
    up: ServersUp | None = None
    """Servers really up, ready and allocated, where reported."""
    floor: NotNegative = 0.0
    """The allocated floor, as in `Transition`."""
