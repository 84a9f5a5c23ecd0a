"""One step of one fleet, pure: where it stands and what was demanded in, what to commit out."""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from services.environment.decision import Choice, decide
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
    """When a fleet's next step is due, and how many were missed before it."""

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
    """In servers; None when the matchmaker gave none: then the last known one is held."""
    history: History = NO_HISTORY
    """Recorded demand before this step, for a policy that sees more than the notebook's numbers."""
    guards: Guards = NO_GUARDS
    step_seconds: float = 65.0
    supply: FleetSupply | None = None
    """Servers that are really there, where that is reported."""
    tickets_waiting: int | None = None
    draw: float | None = None
    """A standard normal number, to draw the next action with; without it that is the mean."""

    @property
    def floor(self) -> float:
        """Servers that must not be given up, as far as they are known."""
        allocated = None if self.supply is None else self.supply.supply.allocated
        return self.guards.floor(allocated, self.tickets_waiting)

    @property
    def up(self) -> int | None:
        """Servers that are reported to be up."""
        return None if self.supply is None else self.supply.supply.up


@dataclass(frozen=True, slots=True)
class Commit:
    """What one step leaves behind, all or nothing."""

    record: FleetRecord
    recorded: RecordedStep
    transition: Transition
    decision: Decision
    explanation: Explanation
    history: History
    """Recorded demand with this step's, where it is usable and the fleet shows it."""


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


def step_fleet(given: StepInput) -> Commit | None:
    """Meet the demand with what was decided before, then decide for the next step.

    Without demand the last known one and the last target are held, and the step is marked stale.
    None where nothing was ever known: there is nothing to hold.
    """
    if given.record is not None:
        record = _by_present_settings(given.record, given.parameters)
        given = replace(given, record=record)
        reported = record.reported_demand if given.demand is None else given.demand
    elif given.demand is not None:
        reported = given.demand
    else:
        return None
    asked = _asked(given)
    before = _state(given)
    outcome = step_to(before, _target(given, asked), reported, given.parameters)
    history = _history_with(given)
    then = _decision_after(given, asked, outcome, history)
    taken = _Taken(given, before, asked, reported, outcome, then)
    return Commit(
        record=taken.record,
        recorded=taken.recorded,
        transition=taken.transition,
        decision=taken.decision,
        explanation=taken.explanation,
        history=history,
    )


def _asked(given: StepInput) -> Choice:
    """What was decided for this step: after the last one, or now where it is the first."""
    record = given.record
    if record is None:
        observation = _floats(observe(_state(given)))
        return decide(given.policy, observation, given.history, given.parameters)
    return Choice(record.next_action, record.next_policy_version, behaviour=record.next_behaviour)


def _history_with(given: StepInput) -> History:
    if given.demand is None or given.parameters.observation == "notebook":
        return given.history
    return with_row(given.history, given.due.at.timestamp(), given.demand, given.parameters)


def _decision_after(
    given: StepInput, asked: Choice, outcome: StepOutcome, history: History
) -> Choice:
    """What the policy decides for the next step; what was asked for is held without demand."""
    parameters = given.parameters
    known = FRESH if given.record is None else given.record.adaptation
    if given.due.gap_steps:
        known = known._replace(pending=())
    observation = _floats(observe(outcome.state))
    if given.demand is None:
        return Choice(
            asked.action,
            asked.version,
            "stale_demand",
            adaptation=skip_row(known, parameters),
            fields=notebook_fields(parameters.history_len),
            seen=observation,
        )
    if asked.version != given.policy.version:
        known = FRESH
    demand = float(outcome.demand)
    return decide(given.policy, observation, history, parameters, given.draw, known, demand)


class _Taken:
    """A step that is taken, and the messages that tell of it."""

    def __init__(
        self,
        given: StepInput,
        before: FleetState,
        asked: Choice,
        reported: float,
        outcome: StepOutcome,
        then: Choice,
    ) -> None:
        record, parameters = given.record, given.parameters
        self._given = given
        self._asked = asked
        self._reported = reported
        self._outcome = outcome
        self._then = then
        self._observation = _floats(observe(before))
        self._next_observation = _floats(observe(outcome.state))
        self._number = 1 if record is None else record.step + 1
        self._stale = given.demand is None
        self._told_before = None if record is None else float(outcome.target)
        self._asks = () if record is None else record.asks
        held = float(outcome.target)
        self._ask = held if self._stale else then.action * parameters.action_factor
        self._scheduled = given.guards.scheduled(given.now, parameters, given.step_seconds)
        self._told = guarded(
            self._ask,
            reported,
            given.guards,
            parameters,
            floor=given.floor,
            scheduled=self._scheduled,
            previous=self._told_before,
            requests=self._asks,
        )
        self._lead_time = measured_lead_time(
            None if record is None else record.lead_time,
            given.supply,
            self._told.target,
            given.now,
            parameters,
            given.step_seconds,
        )

    @property
    def record(self) -> FleetRecord:
        before, outcome, then = self._given.record, self._outcome, self._then
        return FleetRecord(
            fleet=self._given.fleet,
            step=self._number,
            due_at=self._given.due.at,
            demands=_floats(outcome.state.demands),
            targets=_floats(outcome.state.targets),
            reported_demand=self._reported,
            next_action=then.action,
            next_policy_version=then.version,
            next_behaviour=then.behaviour,
            next_target=self._told.target,
            action_factor=self._given.parameters.action_factor,
            asks=self._told.requests,
            adaptation=then.adaptation,
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
            round(self._asked.action * action_factor, TARGET_DECIMALS),
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
            action=self._asked.action,
            target=float(outcome.target),
            demand=float(outcome.demand),
            reported_demand=self._reported,
            allocation=float(outcome.allocation),
            reward=float(outcome.reward),
            next_observation=self._next_observation,
            done=self._number % EPISODE_STEPS == 0,
            policy_version=self._asked.version,
            behaviour=self._asked.behaviour,
            action_factor=given.parameters.action_factor,
            stale=self._stale,
            gap_steps=given.due.gap_steps,
            supply=None if supply is None else supply.supply,
            lead_times=lead_times_of(self._lead_time, given.parameters, given.step_seconds),
            floor=given.floor,
        )

    @property
    def decision(self) -> Decision:
        then = self._then
        return Decision(
            fleet=self._given.fleet,
            step=self._number + 1,
            target=self._told.target,
            allocation=float(self._outcome.allocation),
            curr_demand=self._reported,
            action=then.action,
            observation=self._next_observation,
            policy_version=then.version,
            decided_at=self._given.now,
            fallback=then.fallback,
            guards=self._told.guards,
        )

    @property
    def explanation(self) -> Explanation:
        then = self._then
        return Explanation(
            fleet=self._given.fleet,
            step=self._number + 1,
            decided_at=self._given.now,
            policy_version=then.version,
            fallback=then.fallback,
            observation={
                field: None if math.isnan(value) else value
                for field, value in zip(then.fields, then.seen, strict=True)
            },
            demands=self._next_observation[: self._given.parameters.history_len],
            answers=then.answers,
            weights=weights(then.adaptation, then.prior) if then.answers else (),
            margin=then.adaptation.margin * then.adaptation.mean_error if then.answers else 0.0,
            action=then.action,
            ask=self._ask,
            reported_demand=self._reported,
            told_before=self._told_before,
            asks=self._asks,
            floor=self._given.floor,
            scheduled=self._scheduled,
            moves=self._told.effects,
            target=self._told.target,
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
            "adaptation": known._replace(pending=()) if other_lead else known,
            "action_factor": factor,
        }
    )


def _state(given: StepInput) -> FleetState:
    """The histories as committed, fitted to the fleet's present history_len and limits."""
    record, parameters = given.record, given.parameters
    if record is None:
        return initial_state(parameters)
    return FleetState(
        demands=_fitted(record.demands, parameters), targets=_fitted(record.targets, parameters)
    )


def _target(given: StepInput, asked: Choice) -> FloatArray:
    """The target of this step, as it was told after the one before; within the present limits."""
    record, parameters = given.record, given.parameters
    if record is None or record.next_target is None:
        return target_of(asked.action, parameters)
    return parameters.within_limits(record.next_target)


def _fitted(history: tuple[float, ...], parameters: FleetParameters) -> np.ndarray:
    kept = history[-parameters.history_len :]
    padded = (kept[0],) * (parameters.history_len - len(kept)) + kept
    return parameters.within_limits(padded)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())
