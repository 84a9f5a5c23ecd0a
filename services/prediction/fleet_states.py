"""The states of all fleets, and the recommendations that follow from them."""

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
    """When the last decision on fresh demand was made."""
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
    """The newest decision, demand, supply and mode of every fleet, and the recommendations."""

    def __init__(self, fleets: Fleets) -> None:
        self._fleets = fleets
        self._known = {
            name: _Known(settings, settings.shadow) for name, settings in fleets.by_name.items()
        }
        self._failing: set[str] = set()
        """Fleets without a recommendation because of a bug, which is logged once."""

    def update(self, message: Message) -> None:
        """Update a fleet's state; of demands, the newest by `observed_at` is kept."""
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
        """The `PredictionAnswer` of a fleet, as JSON; errors as in `recommend`.

        Raises `FleetInShadow` for a fleet in shadow mode, unless the caller passes `shadow`.
        """
        kept = self._current(fleet, now, shadow=shadow)
        age_s = (now - kept.decided_at).total_seconds()
        return b'%b,"age_s":%.3f}' % (kept.before_age, age_s if age_s > 0 else 0.0)

    def to_follow(self, fleet: str, now: datetime) -> PredictionAnswer:
        """The answer, without an age, if a fleet may be scaled by it.

        Raises `PredictionStale` where a rule replaces a stale decision, and where a target is held
        for longer than the demand of its decision is valid.
        """
        answer = self._current(fleet, now).answer
        if answer.fallback == "stale_decision":
            raise PredictionStale(
                f"fleet {fleet!r} has no fresh decision, only a rule's: use your own fallback; "
                "check the environment service"
            )
        if answer.fallback == "stale_demand" and self._held_too_long(self._known[fleet], now):
            raise PredictionStale(
                f"fleet {fleet!r} holds a target for longer than its demand is valid: use your own "
                "fallback; check the matchmaker"
            )
        return answer

    def _held_too_long(self, known: _Known, now: datetime) -> bool:
        """Whether the newest demand that was used in a decision is not valid any more.

        Demand from `POST /demand` was observed before the decision.
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
        """``(JSON answers by fleet, reasons of the fleets without one)``. Nothing raises."""
        answers, missing = {}, {}
        for fleet in self._fleets.names:
            try:
                answers[fleet] = self.encoded(fleet, now, shadow=shadow)
            except (DemandMissing, FleetInShadow) as error:
                missing[fleet] = str(error)
            except Exception as error:  # noqa: BLE001 - an error in one fleet must not stop others
                missing[fleet] = self._failed(fleet, error)
            else:
                self._failing.discard(fleet)
        return answers, missing

    def _failed(self, fleet: str, error: Exception) -> str:
        if fleet not in self._failing:
            self._failing.add(fleet)
            # A request for this fleet alone logs the traceback.
            _log.error("fleet_has_no_answer", fleet=fleet, reason=reason_of(error))
        return (
            f"the service failed on fleet {fleet!r} ({type(error).__name__}): use your own "
            "fallback; its log has the reason"
        )

    def in_shadow(self, fleet: str) -> bool:
        """Whether a fleet is in shadow mode; raises `UnknownFleet`."""
        return self._known_of(fleet).shadow

    def _current(self, fleet: str, now: datetime, *, shadow: bool = False) -> _Encoded:
        known = self._known_of(fleet)
        if known.shadow and not shadow:
            raise FleetInShadow(fleet)
        kept = known.encoded
        if kept is None or now > kept.until:
            made = recommend(
                known.settings,
                fleet,
                known.decision,
                known.demand,
                now,
                known.limited,
                known.supply,
            )
            known.limited = made.limited
            kept = known.encoded = _encode(made, shadow=known.shadow)
        return kept

    def _known_of(self, fleet: str) -> _Known:
        known = self._known.get(fleet)
        if known is None:
            raise UnknownFleet(fleet, self._fleets.names)
        return known


def _the_same(before: FleetSupply, after: FleetSupply) -> bool:
    """Whether a newer supply leaves the recommendation unchanged."""
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
