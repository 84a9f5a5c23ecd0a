"""The recommendation for a fleet, as a pure function of its state, the last one, and `now`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field

from shared.core.guards import GuardName, Guards, guarded
from shared.core.recommendation import whole_servers
from shared.core.rules import headroom
from shared.errors import DemandMissing
from shared.messages import SUPPLY_SECONDS, Decision, Demand, Fallback, FleetSupply
from shared.settings import FleetSettings

HEADROOM_VERSION = "rule:headroom"


class NotebookPrediction(BaseModel):
    """What the notebook's client reads."""

    num_of_gameservers: int = Field(description="servers to have: whole, within the limits")
    curr_demand: float = Field(description="the newest demand, as reported")
    action: float = Field(description="the policy's output; 1.0 is `action_factor` servers")
    new_alloc: int = Field(description="the same as `num_of_gameservers`")
    is_false_positive: int = Field(description="1 if the target was below the demand and raised")
    observations: list[float] = Field(
        description="the notebook's observation: demands, then targets, oldest first; empty for "
        "the headroom rule"
    )


class PredictionAnswer(BaseModel):
    """How many game servers to have, with the policy, the time, the guards and any fallback."""

    Prediction: NotebookPrediction
    fleet: str
    allocation: float | None = Field(description="servers that are up; null when not known")
    policy_version: str = Field(description="a policy's version, or `rule:...`")
    decided_at: datetime = Field(
        description="when it was decided; in a `stale_decision`, when its demand was observed"
    )
    guard: GuardName | None = Field(description="the guard that determined the number, if any")
    guards: list[GuardName] = Field(description="all guards that changed it, `guard` first")
    fallback: Fallback | None = Field(description="why it is not a policy's fresh decision")
    shadow: bool = Field(False, description="true: the fleet is in shadow, don't follow it")
    age_s: float = Field(description="seconds since `decided_at`")
    """Last, since it is written anew with every answer."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """A recommendation that replaced the environment's decision, where rate limits are set."""

    target: float
    requests: tuple[float, ...]
    """For the stabilization window."""
    guards: tuple[GuardName, ...]
    changed_at: datetime
    """From when the next change is counted."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer that is valid until the fleet's state changes, at most until `until`."""

    answer: PredictionAnswer
    until: datetime
    limited: RateLimited | None = None
    """To be passed in for the next recommendation."""


def recommend(
    settings: FleetSettings,
    fleet: str,
    decision: Decision | None,
    demand: Demand | None,
    now: datetime,
    limited: RateLimited | None = None,
    supply: FleetSupply | None = None,
) -> Recommendation:
    """The recommendation for a fleet now; raises `DemandMissing` without fresh data.

    It is a fresh decision, raised to the servers that are in use now, and to the demand unless rate
    limits are set, with which the environment does that. Without a fresh decision, the headroom
    rule decides on fresh demand, once per step like the environment. With rate limits, it continues
    from the last decision, and returns to newer decisions no faster than the limits. `age_s` is 0.
    """
    fresh_demand = None
    fresh_supply, until = _while_it_counts(supply, now)
    if demand is not None:
        demand_until = demand.observed_at + timedelta(seconds=settings.demand_ttl_s)
        if now <= demand_until:
            fresh_demand, until = demand, min(until, demand_until)
    floor = _floor(settings, fresh_demand, fresh_supply)
    if decision is not None:
        decided_until = decision.decided_at + timedelta(seconds=settings.decision_ttl_s)
        if now <= decided_until:
            until = min(until, decided_until)
            if limited is None and settings.guards.rate_limited and floor > decision.target:
                limited = RateLimited(decision.target, (), (), decision.decided_at)
            if limited is not None:
                return _back_to(settings, decision, fresh_demand, floor, now, until, limited)
            return Recommendation(_decided(settings, decision, fresh_demand, floor), until)
    if fresh_demand is None:
        raise DemandMissing(_nothing_to_say(settings, fleet, decision, demand, now))
    if limited is None and decision is not None and settings.guards.rate_limited:
        limited = RateLimited(decision.target, (), (), now - _step(settings))
    return _by_headroom(settings, fresh_demand, floor, now, until, limited)


def _decided(
    settings: FleetSettings, decision: Decision, fresh_demand: Demand | None, floor: float
) -> PredictionAnswer:
    curr_demand = decision.curr_demand if fresh_demand is None else fresh_demand.demand
    servers = whole_servers(decision.target, settings.parameters)
    guards = list(decision.guards)
    needed = 0.0 if settings.guards.rate_limited else curr_demand
    raised: tuple[tuple[float, GuardName], ...] = (
        (needed, "below_demand"),
        (floor, "allocated_floor"),
    )
    for least, guard in raised:
        if whole_servers(least, settings.parameters) > servers:
            servers = whole_servers(least, settings.parameters)
            guards.insert(0, guard)
    return _of_decision(decision, curr_demand, servers, tuple(dict.fromkeys(guards)))


def _back_to(
    settings: FleetSettings,
    decision: Decision,
    fresh_demand: Demand | None,
    floor: float,
    now: datetime,
    until: datetime,
    limited: RateLimited,
) -> Recommendation:
    """Return to a fresh decision, as fast as the rate limits allow."""
    steps = max(_steps_since(settings, limited, now), int(decision.decided_at > limited.changed_at))
    if "allocated_floor" in decision.guards:
        floor = max(floor, decision.target)
    if steps:
        limits = replace(_over(settings.guards, steps), scale_down_delay=0)
        # The environment has raised the decision to demand already, hence a demand of 0 here.
        told = guarded(
            decision.target, 0.0, limits, settings.parameters, floor=floor, previous=limited.target
        )
        if told.target == decision.target:
            return Recommendation(_decided(settings, decision, fresh_demand, floor), until)
        limited = RateLimited(told.target, (), told.guards, now)
    limited = _in_use(settings, limited, floor)
    curr_demand = decision.curr_demand if fresh_demand is None else fresh_demand.demand
    servers = whole_servers(limited.target, settings.parameters)
    guards = tuple(dict.fromkeys((*limited.guards, *decision.guards)))
    answer = _of_decision(decision, curr_demand, servers, guards)
    return Recommendation(answer, min(until, limited.changed_at + _step(settings)), limited)


def _of_decision(
    decision: Decision, curr_demand: float, servers: int, guards: Sequence[GuardName]
) -> PredictionAnswer:
    return PredictionAnswer(
        Prediction=NotebookPrediction(
            num_of_gameservers=servers,
            curr_demand=curr_demand,
            action=decision.action,
            new_alloc=servers,
            is_false_positive=int("below_demand" in guards),
            observations=list(decision.observation),
        ),
        fleet=decision.fleet,
        allocation=decision.allocation,
        policy_version=decision.policy_version,
        decided_at=decision.decided_at,
        age_s=0,
        guard=guards[0] if guards else None,
        guards=list(guards),
        fallback=decision.fallback,
    )


def _by_headroom(
    settings: FleetSettings,
    demand: Demand,
    floor: float,
    now: datetime,
    until: datetime,
    limited: RateLimited | None,
) -> Recommendation:
    requested = float(headroom(demand.demand, settings.parameters))
    steps = 1 if limited is None else _steps_since(settings, limited, now)
    if limited is None or steps:
        told = guarded(
            requested,
            demand.demand,
            _over(settings.guards, steps),
            settings.parameters,
            floor=floor,
            scheduled=settings.guards.scheduled(
                now, settings.parameters.lead_steps, settings.learning_freq
            ),
            previous=None if limited is None else limited.target,
            requests=() if limited is None else limited.requests,
        )
        limited = RateLimited(told.target, told.requests, told.guards, now)
    limited = _in_use(settings, limited, floor)
    servers = whole_servers(limited.target, settings.parameters)
    answer = PredictionAnswer(
        Prediction=NotebookPrediction(
            num_of_gameservers=servers,
            curr_demand=demand.demand,
            action=requested / settings.parameters.action_factor,
            new_alloc=servers,
            is_false_positive=0,
            observations=[],
        ),
        fleet=demand.fleet,
        allocation=None,
        policy_version=HEADROOM_VERSION,
        decided_at=demand.observed_at,
        age_s=0,
        guard=limited.guards[0] if limited.guards else None,
        guards=list(limited.guards),
        fallback="stale_decision",
    )
    if settings.guards.rate_limited or settings.guards.scheduled_floors:
        until = min(until, limited.changed_at + _step(settings))
    return Recommendation(answer, until, limited if settings.guards.rate_limited else None)


def _in_use(settings: FleetSettings, limited: RateLimited, floor: float) -> RateLimited:
    """Raise a recommendation to the servers in use, at any time."""
    least = min(floor, settings.parameters.max_servers)
    if least <= limited.target:
        return limited
    guards = tuple(dict.fromkeys(("allocated_floor", *limited.guards)))
    return replace(limited, target=least, guards=guards)


def _steps_since(settings: FleetSettings, limited: RateLimited, now: datetime) -> int:
    """Whole steps since the last change; 1 if the clock was set back."""
    steps = (now - limited.changed_at) // _step(settings)
    return steps if steps >= 0 else 1


def _over(guards: Guards, steps: int) -> Guards:
    """The guards with their rate limits summed over this many steps."""
    return replace(
        guards,
        max_step_up=guards.max_step_up * steps,
        max_step_down=guards.max_step_down * steps,
    )


def _while_it_counts(
    supply: FleetSupply | None, now: datetime
) -> tuple[FleetSupply | None, datetime]:
    """``(supply, until)``: the supply while it is valid, else None, and until when that holds."""
    if supply is not None:
        until = supply.at + timedelta(seconds=SUPPLY_SECONDS)
        if now <= until:
            return supply, until
    return None, datetime.max.replace(tzinfo=UTC)


def _floor(settings: FleetSettings, demand: Demand | None, supply: FleetSupply | None) -> float:
    """The allocated floor in servers, by the newer of both reports.

    Servers that the fleet's controller reports as allocated are kept in any case.
    """
    reported = None if demand is None or demand.supply is None else demand.supply.allocated
    tickets = None if demand is None else demand.tickets_waiting
    if supply is None:
        return settings.guards.floor(reported, tickets)
    counted = supply.supply.allocated or 0
    if reported is None or demand is None or supply.at >= demand.observed_at:
        reported = counted
    return max(settings.guards.floor(reported, tickets), counted)


def _step(settings: FleetSettings) -> timedelta:
    return timedelta(seconds=settings.learning_freq)


def _nothing_to_say(
    settings: FleetSettings,
    fleet: str,
    decision: Decision | None,
    demand: Demand | None,
    now: datetime,
) -> str:
    def age(of: datetime | None, ttl_s: float) -> str:
        if of is None:
            return "is not known"
        return f"is {(now - of).total_seconds():.0f} s old and valid for {ttl_s:g} s"

    decided = age(decision.decided_at if decision else None, settings.decision_ttl_s)
    observed = age(demand.observed_at if demand else None, settings.demand_ttl_s)
    return (
        f"the newest decision of fleet {fleet!r} {decided}, its newest demand {observed}: use "
        "your own fallback; check the environment and matchmaking services"
    )
