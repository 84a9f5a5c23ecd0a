"""What is known of each fleet, and what its callers may be told: the one place that says so."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.prediction.recommendation import (
    PredictionAnswer,
    RateLimited,
    Recommendation,
    recommend,
)
from shared.bus import reason_of
from shared.errors import DemandMissing, FleetInShadow, PredictionStale, UnknownFleet
from shared.messages import (
    SUPPLY_SECONDS,
    Decision,
    Demand,
    FleetMode,
    FleetSupply,
    Message,
)
from shared.settings import Fleets, FleetSettings

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    settings: FleetSettings
    shadow: bool
    decision: Decision | None = None
    demand: Demand | None = None
    demand_met_at: datetime | None = None
    """When a decision was made last that had seen fresh demand."""
    supply: FleetSupply | None = None
    limited: RateLimited | None = None
    encoded: "_Encoded | None" = None


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An answer, and its JSON up to the number that changes with every request."""

    answer: PredictionAnswer
    before_age: bytes
    decided_at: datetime
    until: datetime


class FleetStates:
    """The newest decision, demand, supply and mode of every fleet, and the answers they make."""

    def __init__(self, fleets: Fleets) -> None:
        self._fleets = fleets
        self._known = {
            name: _Known(settings, settings.shadow) for name, settings in fleets.by_name.items()
        }
        self._failing: set[str] = set()
        """Fleets without an answer for a reason that nobody has foreseen, which is logged once."""

    def update(self, message: Message) -> None:
        """Take news of a fleet in; of demands the newest by `observed_at` counts."""
        if not isinstance(message, Decision | Demand | FleetMode | FleetSupply):
            return
        known = self._known.get(message.fleet)
        if known is None:
            return
        if isinstance(message, Decision):
            known.decision = message
            if message.fallback != "stale_demand":
                known.demand_met_at = message.decided_at
        elif isinstance(message, FleetMode):
            known.shadow = message.shadow
        elif isinstance(message, FleetSupply):
            before, known.supply = known.supply, message
            if before is not None and _the_same(before, message):
                return
        elif known.demand is None or message.observed_at >= known.demand.observed_at:
            known.demand = message
        known.encoded = None

    def encoded(self, fleet: str, now: datetime, *, shadow: bool = False) -> bytes:
        """The `PredictionAnswer` of a fleet, encoded; errors as `recommend`.

        Raises `FleetInShadow` where nobody is to follow it, unless the caller says `shadow`.
        """
        kept = self._current(fleet, now, shadow=shadow)
        age_s = (now - kept.decided_at).total_seconds()
        return b'%b,"age_s":%.3f}' % (kept.before_age, age_s if age_s > 0 else 0.0)

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

    def all_encoded(
        self, now: datetime, *, shadow: bool = False
    ) -> tuple[dict[str, bytes], dict[str, str]]:
        """Answers by fleet, encoded, and the reasons of those that have none. Nothing raises."""
        answers, missing = {}, {}
        for fleet in self._fleets.names:
            try:
                answers[fleet] = self.encoded(fleet, now, shadow=shadow)
            except (DemandMissing, FleetInShadow) as error:
                missing[fleet] = str(error)
            except Exception as error:  # noqa: BLE001 - one fleet's must not take the others' answers
                missing[fleet] = self._failed(fleet, error)
            else:
                self._failing.discard(fleet)
        return answers, missing

    def _failed(self, fleet: str, error: Exception) -> str:
        if fleet not in self._failing:
            self._failing.add(fleet)
            # Whoever asks for this fleet alone gets the traceback into the log.
            _log.error("fleet_has_no_answer", fleet=fleet, reason=reason_of(error))
        return (
            f"the service failed on fleet {fleet!r} ({type(error).__name__}): use your own "
            "fallback; its log has the reason"
        )

    def in_shadow(self, fleet: str) -> bool:
        """Whether callers are not to follow a fleet; raises `UnknownFleet`."""
        return self._known_of(fleet).shadow

    def _current(self, fleet: str, now: datetime, *, shadow: bool = False) -> _Encoded:
        known = self._known_of(fleet)
        if known.shadow and not shadow:
            raise FleetInShadow(fleet)
        kept = known.encoded
        if kept is None or now > kept.until:
            said = recommend(
                known.settings,
                fleet,
                known.decision,
                known.demand,
                now,
                known.limited,
                known.supply,
            )
            known.limited = said.limited
            kept = known.encoded = _encode(said, shadow=known.shadow)
        return kept

    def _known_of(self, fleet: str) -> _Known:
        known = self._known.get(fleet)
        if known is None:
            raise UnknownFleet(fleet, self._fleets.names)
        return known


def _the_same(before: FleetSupply, after: FleetSupply) -> bool:
    """Whether an answer that went by the one before needs no change."""
    counts = timedelta(seconds=SUPPLY_SECONDS)
    same = before.supply.allocated == after.supply.allocated
    return same and before.at <= after.at <= before.at + counts


def _encode(recommend: Recommendation, *, shadow: bool) -> _Encoded:
    answer = recommend.answer.model_copy(update={"shadow": shadow})
    return _Encoded(
        answer=recommend.answer,
        before_age=answer.model_dump_json(exclude={"age_s"}).encode().removesuffix(b"}"),
        decided_at=answer.decided_at,
        until=recommend.until,
    )
