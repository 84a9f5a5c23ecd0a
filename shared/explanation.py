"""Explanations of decisions: the guards' effects, the rule's target, the expected error.

A pure function of the record of the decision and of the fleet's recorded steps, so that `GET
/explain` and the log agree; the expected error needs the steps, which the log does not read.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from pydantic import BaseModel, Field

from shared.core.arrays import FloatArray
from shared.core.guards import GuardName, guarded
from shared.core.parameters import FleetParameters
from shared.messages import Explanation, Fallback, RecordedStep
from shared.policies.runtime import RulePolicy, first_action
from shared.settings import FleetSettings

NEWEST_ERRORS = 128
"""Number of recent forecast errors: two hours of steps at 65 s."""
LEAST_ERRORS = 8
"""Fewest errors for an expectation."""


class GuardStep(BaseModel):
    """The effect of one guard."""

    guard: GuardName
    before: float = Field(description="target before the guard, in servers")
    after: float = Field(description="target after the guard, in servers")


class ExpertTarget(BaseModel):
    """The requested target of one expert of the policy: a net, or a rule."""

    ask: float = Field(description="requested target, in servers")
    weight: float = Field(description="the expert's weight; all together 1")


class RuleTarget(BaseModel):
    """The target of the rule on the same history, with the same guards."""

    version: str
    ask: float = Field(description="requested target, in servers, before the guards")
    target: float = Field(description="recommended target, in servers, after the guards")
    guards: list[GuardName] = Field(description="the guards that changed it, the last one first")


class Expected(BaseModel):
    """The expected error when the target meets its demand, from the newest forecast errors."""

    steps_ahead: int = Field(description="steps from the newest demand to the one that it meets")
    under: float = Field(description="mean number of missing servers")
    over: float = Field(description="mean number of idle servers")
    sample: int = Field(description="number of forecast errors in these means")
    source: str = Field(description="how it was estimated")


class Explained(BaseModel):
    """The explanation of a fleet's newest decision; in servers unless stated otherwise."""

    fleet: str
    step: int = Field(description="the step at which the target applies")
    decided_at: datetime
    policy_version: str
    fallback: Fallback | None
    observation: dict[str, float | None] = Field(
        description="the policy's observation, by field; null where history is too short"
    )
    reported_demand: float
    experts: list[ExpertTarget] = Field(
        description="in the order of `experts` in policy.json; none while a target is held"
    )
    margin: float = Field(description="adapted safety margin, added to the experts' mean")
    action: float = Field(description="the policy's output; 1.0 is `action_factor` servers")
    ask: float = Field(description="requested target, before the guards")
    told_before: float | None = Field(description="recommended target of the step before")
    allocated_floor: float = Field(description="servers in use and for tickets; 0: not in force")
    scheduled_floor: float = Field(description="servers for known events; 0: none is near")
    guards: list[GuardStep] = Field(description="every guard in force, in order")
    target: float = Field(description="recommended target, after the guards")
    rule: RuleTarget
    expected: Expected | None = Field(description="null while there are too few recorded steps")


def explained(
    why: Explanation, steps: Sequence[RecordedStep], settings: FleetSettings
) -> Explained:
    """The full explanation; `steps` are the fleet's newest `steps_to_explain`, oldest first."""
    return Explained(
        fleet=why.fleet,
        step=why.step,
        decided_at=why.decided_at,
        policy_version=why.policy_version,
        fallback=why.fallback,
        observation=why.observation,
        reported_demand=why.reported_demand,
        experts=[
            ExpertTarget(ask=action * settings.action_factor, weight=weight)
            for action, weight in zip(why.answers, why.weights, strict=True)
        ],
        margin=why.margin * settings.action_factor,
        action=why.action,
        ask=why.ask,
        told_before=why.told_before,
        allocated_floor=why.floor,
        scheduled_floor=why.scheduled,
        guards=[GuardStep(**effect._asdict()) for effect in why.moves],
        target=why.target,
        rule=_by_rule(why, settings),
        expected=_expected(why, steps, settings.parameters),
    )


def steps_to_explain(parameters: FleetParameters) -> int:
    """How many of a fleet's newest steps contain its `NEWEST_ERRORS`."""
    return NEWEST_ERRORS + parameters.lead_steps


def errors_of(steps: Sequence[RecordedStep], parameters: FleetParameters) -> FloatArray:
    """Forecast errors, oldest first: demand met minus requested target, in servers.

    Only of requests that followed and met fresh demand, with no step missing between.
    """
    found: list[float] = []
    lead = parameters.lead_steps
    for row, (seen, met) in enumerate(zip(steps, steps[lead:], strict=False), 1):
        ask = steps[row].ask
        broken = any(step.gap_steps for step in steps[row : row + lead])
        if seen.usable and met.usable and not broken and ask is not None:
            found.append(met.demand - parameters.one_within_limits(ask))
    return np.array(found, dtype=np.float64)


def _by_rule(why: Explanation, settings: FleetSettings) -> RuleTarget:
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
    return RuleTarget(version=rule.version, ask=ask, target=told.target, guards=list(told.guards))


def _expected(
    why: Explanation, steps: Sequence[RecordedStep], parameters: FleetParameters
) -> Expected | None:
    """Expects the demand to be this requested target plus one of the recent errors, at random."""
    recent = errors_of(steps, parameters)[-NEWEST_ERRORS:]
    if len(recent) < LEAST_ERRORS:
        return None
    missing = parameters.one_within_limits(why.ask) + recent - why.target
    return Expected(
        steps_ahead=parameters.lead_steps,
        under=float(np.maximum(missing, 0.0).mean()),
        over=float(np.maximum(-missing, 0.0).mean()),
        sample=len(recent),
        source=f"the newest {len(recent)} forecast errors of this fleet, by whichever policy: the "
        "demand met minus the requested target",
    )
