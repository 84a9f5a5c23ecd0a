"""One step of one fleet, pure: where it stands and what was demanded in, what to commit out."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from services.environment.choice import Choice, decide
from services.environment.history import empty_history, with_row
from shared.core.adaptation import FRESH, rescaled, unanswered, weights
from shared.core.dynamics import (
    FleetState,
    FloatArray,
    initial_state,
    observe,
    step_to,
    target_of,
)
from shared.core.guards import NO_GUARDS, Guards, guarded
from shared.core.observation import History, notebook_fields
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.core.recommendation import TARGET_DECIMALS
from shared.messages import (
    Decision,
    Explanation,
    FleetRecord,
    RecordedStep,
    Transition,
)
from shared.policies import Policy


@dataclass(frozen=True, slots=True)
class Due:
    """When a fleet's next step is due, and how many were missed before it."""

    at: datetime
    gap_steps: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What one step leaves behind, all or nothing."""

    record: FleetRecord
    recorded: RecordedStep
    transition: Transition
    decision: Decision
    explanation: Explanation


def next_due(last: datetime | None, period_s: float, phase: float, now: datetime) -> Due:
    """The next step on the fleet's own clock, which a late or missed step does not shift.

    Due times are whole periods after the last committed one. What fell due more than a period
    ago can't be made up for, since its demand was never seen: it is counted as a gap. A fleet
    without a step starts `phase` (0 to 1) of a period from now, so that fleets spread out. A
    clock that was set back by more than a period starts the due times anew.
    """
    period = timedelta(seconds=period_s)
    if last is None:
        return Due(now + phase * period, 0)
    if last > now + period:
        return Due(now + period, 0)
    missed = max(0, (now - last) // period - 1)
    return Due(last + (missed + 1) * period, missed)


def step_fleet(
    fleet: str,
    record: FleetRecord | None,
    demand: float | None,
    policy: Policy,
    parameters: FleetParameters,
    due: Due,
    now: datetime,
    history: History | None = None,
    draw: float | None = None,
    guards: Guards = NO_GUARDS,
    floor: float = 0.0,
    scheduled: float = 0.0,
    up: int | None = None,
) -> Commit | None:
    """Meet the demand with what was decided before, then decide for the next step.

    `demand` is in servers, or None when the matchmaker gave none: then the last known demand and
    the last target are held, and the step is marked stale. None comes back when nothing was ever
    known: there is nothing to hold. `history` is the fleet's recorded demand before this step,
    for a policy that sees more than the notebook's numbers; without one its history begins here.
    `draw`, a standard normal number, makes the next action one from the policy's distribution;
    without it the action is the mean. `guards` make of that action the target that is told, and
    asked for at the next step; `floor` and `scheduled` are theirs, in servers. `up` servers are
    reported to be up.
    """
    if demand is None and record is None:
        return None
    if record is not None:
        record = _by_present_settings(record, parameters)
    before = initial_state(parameters) if record is None else _state(record, parameters)
    observation = _floats(observe(before))
    before_this = empty_history(0.0) if history is None else history
    if record is None:
        chosen = decide(policy, observation, before_this, parameters)
    else:
        chosen = Choice(
            record.next_action, record.next_policy_version, behaviour=record.next_behaviour
        )
    stale = demand is None
    reported = record.reported_demand if demand is None and record is not None else demand
    assert reported is not None
    outcome = step_to(before, _asked_for(record, chosen, parameters), reported, parameters)
    next_observation = _floats(observe(outcome.state))

    known = FRESH if record is None else record.adaptation
    if due.gap_steps:
        known = known._replace(waiting=())
    if stale:
        adaptation = unanswered(known, parameters)
        fields = notebook_fields(parameters.history_len)
        then = Choice(
            chosen.action,
            chosen.version,
            "stale_demand",
            adaptation=adaptation,
            fields=fields,
            seen=next_observation,
        )
    else:
        assert demand is not None
        by_now = before_this
        if policy.fields != notebook_fields(parameters.history_len):
            by_now = with_row(before_this, due.at.timestamp(), demand, parameters)
        if chosen.version != policy.version:
            known = FRESH
        then = decide(
            policy,
            next_observation,
            by_now,
            parameters,
            draw,
            known,
            float(outcome.demand),
        )
    target = float(outcome.target)
    ask = target if stale else then.action * parameters.action_factor
    told_before = None if record is None else target
    asks = () if record is None else record.asks
    told = guarded(
        ask,
        reported,
        guards,
        parameters,
        floor=floor,
        scheduled=scheduled,
        told=told_before,
        asks=asks,
    )
    number = 1 if record is None else record.step + 1
    return Commit(
        record=FleetRecord(
            fleet=fleet,
            step=number,
            due_at=due.at,
            demands=_floats(outcome.state.demands),
            targets=_floats(outcome.state.targets),
            reported_demand=reported,
            next_action=then.action,
            next_policy_version=then.version,
            next_behaviour=then.behaviour,
            next_target=told.target,
            action_factor=parameters.action_factor,
            asks=told.asks,
            adaptation=then.adaptation,
            untrained_steps=(0 if record is None else record.untrained_steps) + (not stale),
        ),
        recorded=RecordedStep(
            number,
            due.at.timestamp(),
            reported,
            not stale,
            due.gap_steps,
            round(chosen.action * parameters.action_factor, TARGET_DECIMALS),
            round(float(outcome.allocation), TARGET_DECIMALS),
            up,
            floor,
        ),
        transition=Transition(
            fleet=fleet,
            step=number,
            at=due.at,
            observation=observation,
            action=chosen.action,
            target=target,
            demand=float(outcome.demand),
            reported_demand=reported,
            allocation=float(outcome.allocation),
            reward=float(outcome.reward),
            next_observation=next_observation,
            done=number % EPISODE_STEPS == 0,
            policy_version=chosen.version,
            behaviour=chosen.behaviour,
            action_factor=parameters.action_factor,
            stale=stale,
            gap_steps=due.gap_steps,
            floor=floor,
        ),
        decision=Decision(
            fleet=fleet,
            step=number + 1,
            target=told.target,
            allocation=float(outcome.allocation),
            curr_demand=reported,
            action=then.action,
            observation=next_observation,
            policy_version=then.version,
            decided_at=now,
            fallback=then.fallback,
            guards=told.guards,
        ),
        explanation=Explanation(
            fleet=fleet,
            step=number + 1,
            decided_at=now,
            policy_version=then.version,
            fallback=then.fallback,
            observation={
                field: None if math.isnan(value) else value
                for field, value in zip(then.fields, then.seen, strict=True)
            },
            demands=next_observation[: parameters.history_len],
            answers=then.answers,
            weights=weights(then.adaptation, then.prior) if then.answers else (),
            margin=then.adaptation.margin * then.adaptation.usual_miss if then.answers else 0.0,
            action=then.action,
            ask=ask,
            reported_demand=reported,
            told_before=told_before,
            asks=asks,
            floor=floor,
            scheduled=scheduled,
            moves=told.moves,
            target=told.target,
        ),
    )


def _by_present_settings(record: FleetRecord, parameters: FleetParameters) -> FleetRecord:
    """The record with its actions by the fleet's present `action_factor`.

    Answers that wait for their outcome were given for the lead time of then: with another
    `history_len` they are forgotten.
    """
    factor, other_lead = parameters.action_factor, len(record.demands) != parameters.history_len
    scale = (record.action_factor or factor) / factor
    if scale == 1 and not other_lead:
        return record
    known = rescaled(record.adaptation, scale)
    behaviour = record.next_behaviour
    return record.model_copy(
        update={
            "next_action": scale * record.next_action,
            "next_behaviour": behaviour and (scale * behaviour[0], scale * behaviour[1]),
            "adaptation": known._replace(waiting=()) if other_lead else known,
            "action_factor": factor,
        }
    )


def _state(record: FleetRecord, parameters: FleetParameters) -> FleetState:
    """The histories as committed, fitted to the fleet's present history_len and limits."""
    return FleetState(
        demands=_fitted(record.demands, parameters), targets=_fitted(record.targets, parameters)
    )


def _asked_for(
    record: FleetRecord | None, chosen: Choice, parameters: FleetParameters
) -> FloatArray:
    """The target of this step, as it was told after the one before; within the present limits."""
    if record is None or record.next_target is None:
        return target_of(chosen.action, parameters)
    target = np.asarray(record.next_target, dtype=np.float64)
    return np.clip(target, parameters.min_servers, parameters.max_servers)


def _fitted(history: tuple[float, ...], parameters: FleetParameters) -> np.ndarray:
    kept = history[-parameters.history_len :]
    padded = (kept[0],) * (parameters.history_len - len(kept)) + kept
    return np.clip(padded, parameters.min_servers, parameters.max_servers)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())
