"""What a step of a fleet leaves behind."""

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
    """Seconds from a raised target to the servers: as measured, and as the environment assumes."""

    measured_s: NotNegative
    assumed_s: Positive


class Transition(Message):
    """The record of one step; servers unless it says otherwise."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    at: Utc
    """When the step was due."""
    observation: tuple[Finite, ...]
    action: Finite
    target: Servers
    demand: Servers
    """Within the fleet's limits, as the environment sees it."""
    reported_demand: Servers
    """As the matchmaker reported it; above `demand` when it exceeds the limits."""
    allocation: Servers
    reward: Finite
    next_observation: tuple[Finite, ...]
    done: bool = False
    """Last step of an episode of 301."""
    policy_version: str
    behaviour: Behaviour | None = None
    """What the action was drawn from, where the fleet explores; None: it was not drawn."""
    action_factor: Positive | None = None
    """Servers that an action of 1.0 meant; None: as now, an older version did not say."""
    stale: bool = False
    """No fresh demand: the last one was held. Never trained on."""
    gap_steps: Count = 0
    """Steps that were due since the one before and did not happen (the worker was away)."""
    supply: Supply | None = None
    """What the fleet really had, where it is told: `allocation` is what was asked for."""
    lead_times: LeadTimes | None = None
    floor: NotNegative = 0.0
    """What was told after it was not to go below: servers in use, and those that tickets need."""


class Decision(Message):
    """What the outside is told: the newest target of a fleet, by whom, and why."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step that the target is asked for at."""
    target: Servers
    allocation: Servers
    """Servers that are up now: the target of `history_len` steps ago."""
    curr_demand: Servers
    """The demand that the decision has seen last, as it was reported."""
    action: Finite
    observation: tuple[Finite, ...]
    policy_version: str
    decided_at: Utc
    fallback: Fallback | None = None
    guards: tuple[GuardName, ...] = ()
    """What changed the policy's target; the first settled it."""


class FleetRecord(Message):
    """All that a fleet needs to go on from its last committed step."""

    fleet: FleetId
    step: Annotated[int, Field(ge=1)]
    """The step committed last."""
    due_at: Utc
    """When that step was due; the next is due one `learning_freq` later."""
    demands: tuple[Finite, ...]
    targets: tuple[Finite, ...]
    reported_demand: Servers
    """The last demand known, as reported."""
    next_action: Finite
    """Decided after that step, asked for at the next."""
    next_policy_version: str
    next_behaviour: Behaviour | None = None
    """What that action was drawn from, if it was."""
    next_target: Servers | None = None
    """What was told, and will be asked for; None: what that action says (of an older version)."""
    action_factor: Positive | None = None
    """Servers that an action of 1.0 meant, here and in `adaptation`; None as in `Transition`."""
    asks: tuple[Finite, ...] = ()
    """In servers, oldest first, as many as the guards look back."""
    adaptation: Annotated[Adaptation, of_any_release(Adaptation)] = FRESH
    """What has been learnt of the policy of `next_policy_version` since it serves."""
    untrained_steps: Count
    """Steps that count for training, since the last job was queued."""
    lead_time: LeadTime | None = None
    """What is measured of it; None where supply is not told."""


class RecordedStep(NamedTuple):
    """A step's demand, as the trainer replays it; a row of a list in Redis."""

    step: Count
    at: Finite
    """When the step was due, seconds since 1970."""
    demand: Servers
    """As reported, in servers."""
    usable: bool
    """False for a held demand: never trained on."""
    gap_steps: Count
    """Steps missing before this one: histories don't reach across."""
    ask: Finite | None = None
    """What the policy asked for at this step, in servers, before any guard."""
    allocation: Servers | None = None
    """Servers up by this platform's decisions."""
    up: ServersUp | None = None
    """Servers really up, ready and allocated, where they are reported."""
    floor: NotNegative = 0.0
    """What was told after it was not to go below, as in `Transition`."""
