"""What is known of each fleet, and what to tell about it: a pure function of that and `now`."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field

from shared.core.baselines import headroom
from shared.core.guards import GuardName, guarded
from shared.core.recommendation import whole_servers
from shared.errors import DemandMissing, PredictionStale, UnknownFleet
from shared.messages import Decision, Demand, Fallback, Message
from shared.settings import Fleets, FleetSettings

HEADROOM_VERSION = "rule:headroom"


class NotebookPrediction(BaseModel):
    """What the notebook's client reads."""

    num_of_gameservers: int = Field(description="servers to have: whole, within the limits")
    curr_demand: float = Field(description="the newest demand, as reported")
    action: float = Field(description="the policy's output; 1.0 is `action_factor` servers")
    new_alloc: int = Field(description="the same as `num_of_gameservers`")
    is_false_positive: int = Field(description="1 if the target was below the demand and raised")
    observations: list[float] = Field(
        description="what the policy saw: demands, then targets, oldest first; empty when the "
        "headroom rule answered"
    )


class PredictionAnswer(BaseModel):
    """How many game servers to have, by whom, since when, and why if it is no plain decision."""

    Prediction: NotebookPrediction
    fleet: str
    allocation: float | None = Field(description="servers that are up; null when not known")
    policy_version: str = Field(description="a policy's version, or `rule:...`")
    decided_at: datetime = Field(
        description="when it was decided; in a `stale_decision`, when its demand was observed"
    )
    age_s: float = Field(description="seconds since `decided_at`")
    guard: GuardName | None = Field(description="what settled the number, if not the policy")
    guards: list[GuardName] = Field(description="all that changed it, `guard` first")
    fallback: Fallback | None = Field(description="why it is not a policy's fresh decision")


@dataclass(frozen=True, slots=True)
class Outlook:
    """An answer that holds until something is heard, or else until a moment."""

    answer: PredictionAnswer
    until: datetime


@dataclass(slots=True)
class _Known:
    settings: FleetSettings
    decision: Decision | None = None
    demand: Demand | None = None
    demand_met_at: datetime | None = None
    """When a decision was made last that had seen fresh demand."""
    encoded: "_Encoded | None" = None


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An answer, and its JSON around the number that changes with every request."""

    answer: PredictionAnswer
    before_age: bytes
    after_age: bytes
    decided_at: datetime
    until: datetime


class Board:
    """The newest decision and demand of every fleet, and the answers they make."""

    def __init__(self, fleets: Fleets) -> None:
        self._fleets = fleets
        self._known = {name: _Known(settings) for name, settings in fleets.by_name.items()}

    def hear(self, message: Message) -> None:
        """Take a decision or a demand in; of demands the newest by `observed_at` counts."""
        if not isinstance(message, Decision | Demand):
            return
        known = self._known.get(message.fleet)
        if known is None:
            return
        if isinstance(message, Decision):
            known.decision = message
            if message.fallback != "stale_demand":
                known.demand_met_at = message.decided_at
        elif known.demand is None or message.observed_at >= known.demand.observed_at:
            known.demand = message
        known.encoded = None

    def encoded(self, fleet: str, now: datetime) -> bytes:
        """The `PredictionAnswer` of a fleet, encoded; errors as `outlook`."""
        kept = self._current(fleet, now)
        age_s = (now - kept.decided_at).total_seconds()
        return b"%b%.3f%b" % (kept.before_age, age_s if age_s > 0 else 0.0, kept.after_age)

    def to_follow(self, fleet: str, now: datetime) -> PredictionAnswer:
        """The answer, without an age, where a fleet may be scaled by it.

        Raises `PredictionStale` where a rule stands in for the environment, and where a held target
        has outlived the demand that it was decided on.
        """
        answer = self._current(fleet, now).answer
        if answer.fallback == "stale_decision":
            raise PredictionStale(
                f"fleet {fleet!r} has no fresh decision, only a rule's: use your own fallback; "
                "look at the environment service"
            )
        if answer.fallback == "stale_demand" and self._held_too_long(self._known[fleet], now):
            raise PredictionStale(
                f"fleet {fleet!r} holds a target for longer than its demand counts: use your own "
                "fallback; look at the matchmaker"
            )
        return answer

    def _held_too_long(self, known: _Known, now: datetime) -> bool:
        """Whether the demand that was seen last counts no longer.

        It was observed before the decision that saw it, where it came by way of `POST /demand`.
        """
        counts = timedelta(seconds=known.settings.demand_ttl_s)
        seen = known.demand_met_at
        if known.demand is not None:
            reported = known.demand.observed_at
            seen = reported if seen is None or reported + counts >= seen else seen
        return seen is None or now > seen + counts

    def _current(self, fleet: str, now: datetime) -> "_Encoded":
        known = self._known.get(fleet)
        if known is None:
            raise UnknownFleet(fleet, self._fleets.names)
        kept = known.encoded
        if kept is None or now > kept.until:
            kept = known.encoded = _encode(
                outlook(known.settings, fleet, known.decision, known.demand, now)
            )
        return kept

    def all_encoded(self, now: datetime) -> tuple[dict[str, bytes], dict[str, str]]:
        """Answers by fleet, encoded, and the reasons of those that have none."""
        answers, missing = {}, {}
        for fleet in self._fleets.names:
            try:
                answers[fleet] = self.encoded(fleet, now)
            except DemandMissing as error:
                missing[fleet] = str(error)
        return answers, missing


def outlook(
    settings: FleetSettings,
    fleet: str,
    decision: Decision | None,
    demand: Demand | None,
    now: datetime,
) -> Outlook:
    """What to tell of a fleet now; raises `DemandMissing` when nothing fresh is known.

    A fresh decision is told, raised to the demand if it is below it, unless a guard of moves has
    the environment do that. Without one, a fresh demand makes the headroom rule decide, and moves
    are not limited: what the caller was told last is not known. `age_s` is left at 0.
    """
    fresh_demand, until = None, datetime.max.replace(tzinfo=UTC)
    if demand is not None:
        demand_until = demand.observed_at + timedelta(seconds=settings.demand_ttl_s)
        if now <= demand_until:
            fresh_demand, until = demand, demand_until
    if decision is not None:
        decided_until = decision.decided_at + timedelta(seconds=settings.decision_ttl_s)
        if now <= decided_until:
            return Outlook(_decided(settings, decision, fresh_demand), min(until, decided_until))
    if fresh_demand is None:
        raise DemandMissing(_nothing_to_say(settings, fleet, decision, demand, now))
    return Outlook(_by_headroom(settings, fresh_demand), until)


def _decided(
    settings: FleetSettings, decision: Decision, fresh_demand: Demand | None
) -> PredictionAnswer:
    curr_demand = decision.curr_demand if fresh_demand is None else fresh_demand.demand
    wanted = whole_servers(decision.target, settings.parameters)
    needed = whole_servers(curr_demand, settings.parameters)
    guards = list(decision.guards)
    servers = wanted
    if needed > wanted and not settings.guards.of_moves:
        servers = needed
        guards.insert(0, "below_demand")
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
        guards=guards,
        fallback=decision.fallback,
    )


def _by_headroom(settings: FleetSettings, demand: Demand) -> PredictionAnswer:
    ask = float(headroom(demand.demand, settings.parameters))
    allocated = None if demand.supply is None else demand.supply.allocated
    floor = settings.guards.floor(allocated, demand.tickets_waiting)
    told = guarded(ask, demand.demand, settings.guards, settings.parameters, floor=floor)
    servers = whole_servers(told.target, settings.parameters)
    return PredictionAnswer(
        Prediction=NotebookPrediction(
            num_of_gameservers=servers,
            curr_demand=demand.demand,
            action=ask / settings.parameters.action_factor,
            new_alloc=servers,
            is_false_positive=0,
            observations=[],
        ),
        fleet=demand.fleet,
        allocation=None,
        policy_version=HEADROOM_VERSION,
        decided_at=demand.observed_at,
        age_s=0,
        guard=told.guards[0] if told.guards else None,
        guards=list(told.guards),
        fallback="stale_decision",
    )


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
        return f"is {(now - of).total_seconds():.0f} s old and counts for {ttl_s:g} s"

    decided = age(decision.decided_at if decision else None, settings.decision_ttl_s)
    observed = age(demand.observed_at if demand else None, settings.demand_ttl_s)
    return (
        f"the newest decision of fleet {fleet!r} {decided}, its newest demand {observed}: use "
        "your own fallback; look at the environment and matchmaking services"
    )


def _encode(outlook: Outlook) -> _Encoded:
    mark = b'"age_s":0.0'
    before, after = outlook.answer.model_dump_json().encode().split(mark)
    return _Encoded(
        answer=outlook.answer,
        before_age=before + mark[:-3],
        after_age=after,
        decided_at=outlook.answer.decided_at,
        until=outlook.until,
    )
