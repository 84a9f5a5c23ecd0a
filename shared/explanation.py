"""What is told of a decision when someone asks why: the guards, the rule beside it, what to expect.

A pure function of what was recorded with the decision and of the fleet's recorded steps, so that
`GET /explain` and the log say the same; what to expect comes of the steps, and the log has none.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from shared.core.guards import GuardName, guarded
from shared.core.parameters import FleetParameters
from shared.messages import Explanation, Fallback, RecordedStep
from shared.policies.runtime import RulePolicy, first_action
from shared.settings import FleetSettings

NEWEST_MISSES = 128
"""What a fleet's recent misses are: two hours of steps at 65 s."""
LEAST_MISSES = 8
"""With fewer nothing is expected: a mean of them says little."""


class GuardMove(BaseModel):
    """What one guard did."""

    guard: GuardName
    before: float = Field(description="servers it was given")
    after: float = Field(description="servers it made of them")


class ExpertAnswer(BaseModel):
    """What one part of the policy answered: a net, or a rule beside it."""

    ask: float = Field(description="servers")
    weight: float = Field(description="what it counted for; all together 1")


class RuleAnswer(BaseModel):
    """What the plain rule would have said on the same history, through the same guards."""

    version: str
    ask: float = Field(description="servers, before the guards")
    target: float = Field(description="servers, after them")
    guards: list[GuardName] = Field(description="those that changed it, the deciding one first")


class Expected(BaseModel):
    """What to expect when the target meets its demand, by what came of the newest asks."""

    steps_ahead: int = Field(description="steps from the newest demand to the one that it meets")
    under: float = Field(description="servers too few, mean")
    over: float = Field(description="servers too many, mean")
    sample: int = Field(description="how many asks that is the mean over")
    source: str = Field(description="where it comes from")


class Explained(BaseModel):
    """Why a fleet's newest decision is what it is; in servers unless it says otherwise."""

    fleet: str
    step: int = Field(description="the step that the target is asked for at")
    decided_at: datetime
    policy_version: str
    fallback: Fallback | None
    observation: dict[str, float | None] = Field(
        description="what the policy saw, by field; null where history does not reach"
    )
    reported_demand: float
    experts: list[ExpertAnswer] = Field(
        description="in the order of `experts` in policy.json; none while a target is held"
    )
    margin: float = Field(description="learnt while it serves; added to the experts' average")
    action: float = Field(description="the policy's output; 1.0 is `action_factor` servers")
    ask: float = Field(description="what the guards were given")
    told_before: float | None
    allocated_floor: float = Field(description="servers in use or waited for; 0: not in force")
    scheduled_floor: float = Field(description="servers for known events; 0: none is near")
    guards: list[GuardMove] = Field(description="every guard in force, in its order")
    target: float
    rule: RuleAnswer
    expected: Expected | None = Field(description="null while too little is known")


def explained(
    why: Explanation, steps: Sequence[RecordedStep], settings: FleetSettings
) -> Explained:
    """`why` in full; `steps` are the fleet's newest, `steps_to_explain` of them, oldest first."""
    return Explained(
        fleet=why.fleet,
        step=why.step,
        decided_at=why.decided_at,
        policy_version=why.policy_version,
        fallback=why.fallback,
        observation=why.observation,
        reported_demand=why.reported_demand,
        experts=[
            ExpertAnswer(ask=answer * settings.action_factor, weight=weight)
            for answer, weight in zip(why.answers, why.weights, strict=True)
        ],
        margin=why.margin * settings.action_factor,
        action=why.action,
        ask=why.ask,
        told_before=why.told_before,
        allocated_floor=why.floor,
        scheduled_floor=why.scheduled,
        guards=[GuardMove(**move._asdict()) for move in why.moves],
        target=why.target,
        rule=_by_rule(why, settings),
        expected=_expected(why, steps, settings.parameters),
    )


def steps_to_explain(parameters: FleetParameters) -> int:
    """How many of a fleet's newest steps tell its recent misses."""
    return NEWEST_MISSES + parameters.lead_steps


def misses(steps: Sequence[RecordedStep], parameters: FleetParameters) -> NDArray[np.float64]:
    """By how much the demand met was above each ask, in servers, oldest first.

    Of the asks that followed fresh demand and met fresh demand, with no step missing between.
    """
    found: list[float] = []
    lead = parameters.lead_steps
    for row, (seen, met) in enumerate(zip(steps, steps[lead:], strict=False), 1):
        ask = steps[row].ask
        broken = any(step.gap_steps for step in steps[row : row + lead])
        if seen.usable and met.usable and not broken and ask is not None:
            found.append(met.demand - parameters.one_within_limits(ask))
    return np.array(found, dtype=np.float64)


def _by_rule(why: Explanation, settings: FleetSettings) -> RuleAnswer:
    rule = RulePolicy(settings.parameters)
    ask = first_action(rule, why.demands) * settings.action_factor
    told = guarded(
        ask,
        why.reported_demand,
        settings.guards,
        settings.parameters,
        floor=why.floor,
        scheduled=why.scheduled,
        previous=why.told_before,
        requests=why.asks,
    )
    return RuleAnswer(version=rule.version, ask=ask, target=told.target, guards=list(told.guards))


def _expected(
    why: Explanation, steps: Sequence[RecordedStep], parameters: FleetParameters
) -> Expected | None:
    """The demand to come is this ask plus a recent miss, each as likely as the others."""
    recent = misses(steps, parameters)[-NEWEST_MISSES:]
    if len(recent) < LEAST_MISSES:
        return None
    missing = parameters.one_within_limits(why.ask) + recent - why.target
    return Expected(
        steps_ahead=parameters.lead_steps,
        under=float(np.maximum(missing, 0.0).mean()),
        over=float(np.maximum(-missing, 0.0).mean()),
        sample=len(recent),
        source=f"what came of the newest {len(recent)} asks of this fleet, by whichever policy: "
        "the demand that each met, less the ask",
    )
