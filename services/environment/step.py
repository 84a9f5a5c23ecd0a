"""One step of one fleet, as a pure function: `StepInput` in, `Commit` out."""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from services.environment.decision import PolicyDecision, decide
from services.environment.history import empty_history, with_row
from services.environment.supply import lead_times_of, measured_lead_time
from shared.core.adaptation import FRESH, rescaled, skip_row, weights
from shared.core.arrays import FloatArray
from shared.core.dynamics import FleetState, StepOutcome, initial_state, observe, step_to, target_of
from shared.core.fields import notebook_fields
from shared.core.guards import NO_GUARDS, Guards, guarded
from shared.core.history import History
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.core.recommendation import TARGET_DECIMALS
from shared.messages import (
    Decision,
    Explanation,
    FleetRecord,
    FleetSupply,
    RecordedStep,
    Transition,
)
from shared.policies.runtime import Policy

NO_HISTORY = empty_history(0.0)


@dataclass(frozen=True, slots=True)
class Due:
    """When a fleet's next step is due, and the number of steps missed before it."""

    at: datetime
    gap_steps: int


@dataclass(frozen=True, slots=True)
class StepInput:
    """All that one step of a fleet depends on."""

    fleet: str
    record: FleetRecord | None
    """The fleet after its last committed step; None before the first."""
    policy: Policy
    parameters: FleetParameters
    due: Due
    now: datetime
    demand: float | None
    """In servers; None if there is none: then the last known demand is held."""
    history: History = NO_HISTORY
    """Recorded demand before this step, for an observation with more than the notebook's fields."""
    guards: Guards = NO_GUARDS
    step_seconds: float = 65.0
    supply: FleetSupply | None = None
    """The servers that the fleet really has, where reported."""
    tickets_waiting: int | None = None
    draw: float | None = None
    """A standard normal number to sample the next action with; without it, the mean is taken."""

    @property
    def floor(self) -> float:
        """The allocated floor, in servers, as far as it is reported."""
        allocated = None if self.supply is None else self.supply.supply.allocated
        return self.guards.floor(allocated, self.tickets_waiting)

    @property
    def up(self) -> int | None:
        """Servers that are reported to be up."""
        return None if self.supply is None else self.supply.supply.up


@dataclass(frozen=True, slots=True)
class Commit:
    """The records of one step, which are committed atomically."""

    record: FleetRecord
    recorded: RecordedStep
    transition: Transition
    decision: Decision
    explanation: Explanation
    history: History
    """Recorded demand including this step's, where usable and part of the observation."""


def next_due(last: datetime | None, period_s: float, phase: float, now: datetime) -> Due:
    """The next step on the fleet's own clock, which late or missed steps do not shift.

    Due times are whole periods after the last committed one. A step that was due more than a
    period ago is not made up for, since its demand was never read: it counts as a gap. A fleet
    without a step starts `phase` (0 to 1) of a period from now, so that fleets spread out. If the
    clock was set back by more than a period, due times start again from now.
    """
    period = timedelta(seconds=period_s)
    if last is None:
        return Due(now + phase * period, 0)
    if last > now + period:
        return Due(now + period, 0)
    missed = max(0, (now - last) // period - 1)
    return Due(last + (missed + 1) * period, missed)


def step_fleet(given: StepInput) -> Commit | None:
    """Meet the demand with earlier decisions, then decide for the next step.

    Without demand the last known demand and the last target are held, and the step is marked stale.
    Returns None if no demand was ever known.
    """
    if given.record is not None:
        record = _by_present_settings(given.record, given.parameters)
        given = replace(given, record=record)
        reported = record.reported_demand if given.demand is None else given.demand
    elif given.demand is not None:
        reported = given.demand
    else:
        return None
    present = _present_decision(given)
    before = _state(given)
    outcome = step_to(before, _target(given, present), reported, given.parameters)
    history = _history_with(given)
    following = _next_decision(given, present, outcome, history)
    taken = _Taken(given, before, present, reported, outcome, following)
    return Commit(
        record=taken.record,
        recorded=taken.recorded,
        transition=taken.transition,
        decision=taken.decision,
        explanation=taken.explanation,
        history=history,
    )


def _present_decision(given: StepInput) -> PolicyDecision:
    """The decision for this step: made after the last one, or now for the first step."""
    record = given.record
    if record is None:
        observation = _floats(observe(_state(given)))
        return decide(given.policy, observation, given.history, given.parameters)
    return PolicyDecision(
        record.next_action, record.next_policy_version, behaviour=record.next_behaviour
    )


def _history_with(given: StepInput) -> History:
    if given.demand is None or given.parameters.observation == "notebook":
        return given.history
    return with_row(given.history, given.due.at.timestamp(), given.demand, given.parameters)


def _next_decision(
    given: StepInput, present: PolicyDecision, outcome: StepOutcome, history: History
) -> PolicyDecision:
    """The decision for the next step; without demand the present one is held."""
    parameters = given.parameters
    known = FRESH if given.record is None else given.record.adaptation
    if given.due.gap_steps:
        known = known._replace(pending=())
    observation = _floats(observe(outcome.state))
    if given.demand is None:
        return PolicyDecision(
            present.action,
            present.version,
            "stale_demand",
            adaptation=skip_row(known, parameters),
            fields=notebook_fields(parameters.history_len),
            seen=observation,
        )
    if present.version != given.policy.version:
        known = FRESH
    demand = float(outcome.demand)
    return decide(given.policy, observation, history, parameters, given.draw, known, demand)


class _Taken:
    """A step that was taken, and the messages that record it."""

    def __init__(
        self,
        given: StepInput,
        before: FleetState,
        present: PolicyDecision,
        reported: float,
        outcome: StepOutcome,
        following: PolicyDecision,
    ) -> None:
        record, parameters = given.record, given.parameters
        self._given = given
        self._present = present
        self._reported = reported
        self._outcome = outcome
        self._next = following
        self._observation = _floats(observe(before))
        self._next_observation = _floats(observe(outcome.state))
        self._number = 1 if record is None else record.step + 1
        self._stale = given.demand is None
        self._previous = None if record is None else float(outcome.target)
        self._requests = () if record is None else record.asks
        held = float(outcome.target)
        self._requested = held if self._stale else following.action * parameters.action_factor
        self._scheduled = given.guards.scheduled(
            given.now, parameters.lead_steps, given.step_seconds
        )
        self._guarded = guarded(
            self._requested,
            reported,
            given.guards,
            parameters,
            floor=given.floor,
            scheduled=self._scheduled,
            previous=self._previous,
            requests=self._requests,
        )
        self._lead_time = measured_lead_time(
            None if record is None else record.lead_time,
            given.supply,
            self._guarded.target,
            given.now,
            parameters,
            given.step_seconds,
        )

    @property
    def record(self) -> FleetRecord:
        before, outcome, following = self._given.record, self._outcome, self._next
        return FleetRecord(
            fleet=self._given.fleet,
            step=self._number,
            due_at=self._given.due.at,
            demands=_floats(outcome.state.demands),
            targets=_floats(outcome.state.targets),
            reported_demand=self._reported,
            next_action=following.action,
            next_policy_version=following.version,
            next_behaviour=following.behaviour,
            next_target=self._guarded.target,
            action_factor=self._given.parameters.action_factor,
            asks=self._guarded.requests,
            adaptation=following.adaptation,
            untrained_steps=(0 if before is None else before.untrained_steps) + (not self._stale),
            lead_time=self._lead_time,
        )

    @property
    def recorded(self) -> RecordedStep:
        due, action_factor = self._given.due, self._given.parameters.action_factor
        return RecordedStep(
            self._number,
            due.at.timestamp(),
            self._reported,
            not self._stale,
            due.gap_steps,
            round(self._present.action * action_factor, TARGET_DECIMALS),
            round(float(self._outcome.allocation), TARGET_DECIMALS),
            self._given.up,
            self._given.floor,
        )

    @property
    def transition(self) -> Transition:
        given, outcome, supply = self._given, self._outcome, self._given.supply
        return Transition(
            fleet=given.fleet,
            step=self._number,
            at=given.due.at,
            observation=self._observation,
            action=self._present.action,
            target=float(outcome.target),
            demand=float(outcome.demand),
            reported_demand=self._reported,
            allocation=float(outcome.allocation),
            reward=float(outcome.reward),
            next_observation=self._next_observation,
            done=self._number % EPISODE_STEPS == 0,
            policy_version=self._present.version,
            behaviour=self._present.behaviour,
            action_factor=given.parameters.action_factor,
            stale=self._stale,
            gap_steps=given.due.gap_steps,
            supply=None if supply is None else supply.supply,
            lead_times=lead_times_of(self._lead_time, given.parameters, given.step_seconds),
            floor=given.floor,
        )

    @property
    def decision(self) -> Decision:
        following = self._next
        return Decision(
            fleet=self._given.fleet,
            step=self._number + 1,
            target=self._guarded.target,
            allocation=float(self._outcome.allocation),
            curr_demand=self._reported,
            action=following.action,
            observation=self._next_observation,
            policy_version=following.version,
            decided_at=self._given.now,
            fallback=following.fallback,
            guards=self._guarded.guards,
        )

    @property
    def explanation(self) -> Explanation:
        following, adaptation = self._next, self._next.adaptation
        return Explanation(
            fleet=self._given.fleet,
            step=self._number + 1,
            decided_at=self._given.now,
            policy_version=following.version,
            fallback=following.fallback,
            observation={
                field: None if math.isnan(value) else value
                for field, value in zip(following.fields, following.seen, strict=True)
            },
            demands=self._next_observation[: self._given.parameters.history_len],
            answers=following.experts_actions,
            weights=weights(adaptation, following.prior) if following.experts_actions else (),
            margin=adaptation.margin * adaptation.mean_error if following.experts_actions else 0.0,
            action=following.action,
            ask=self._requested,
            reported_demand=self._reported,
            told_before=self._previous,
            asks=self._requests,
            floor=self._given.floor,
            scheduled=self._scheduled,
            moves=self._guarded.effects,
            target=self._guarded.target,
        )


def _by_present_settings(record: FleetRecord, parameters: FleetParameters) -> FleetRecord:
    """The record with its actions rescaled to the fleet's present `action_factor`.

    Pending actions were made for the lead time at that time: with another `history_len` they are
    dropped.
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
            "adaptation": known._replace(pending=()) if other_lead else known,
            "action_factor": factor,
        }
    )


def _state(given: StepInput) -> FleetState:
    """The committed histories, fitted to the fleet's present `history_len` and limits."""
    record, parameters = given.record, given.parameters
    if record is None:
        return initial_state(parameters)
    return FleetState(
        demands=_fitted(record.demands, parameters), targets=_fitted(record.targets, parameters)
    )


def _target(given: StepInput, present: PolicyDecision) -> FloatArray:
    """The target of this step: the number told after the last one, clipped to present limits."""
    record, parameters = given.record, given.parameters
    if record is None or record.next_target is None:
        return target_of(present.action, parameters)
    return parameters.within_limits(record.next_target)


def _fitted(history: tuple[float, ...], parameters: FleetParameters) -> np.ndarray:
    kept = history[-parameters.history_len :]
    padded = (kept[0],) * (parameters.history_len - len(kept)) + kept
    return parameters.within_limits(padded)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())
