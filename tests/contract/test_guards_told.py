"""What callers are told with guards set, whatever happens and in whichever order.

Silent matchmakers and environments, restarts of the worker, known events, shadow, reports between
steps: through the environment's step, its record in JSON, and prediction's states.
"""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.environment.step import Commit, StepInput, next_due, step_fleet
from services.prediction.fleet_states import FleetStates
from shared.core.fields import notebook_fields
from shared.core.schedule import ScheduledFloor
from shared.errors import DemandMissing, FleetInShadow
from shared.messages import (
    SUPPLY_SECONDS,
    Demand,
    FleetMode,
    FleetRecord,
    FleetSupply,
    Supply,
)
from shared.settings import Fleets, FleetSettings
from tests.conftest import NOW
from tests.policies import OneByOne

STEP = timedelta(seconds=65)
SOON = NOW.replace(second=0) + timedelta(minutes=20)


class Asking(OneByOne):
    """A policy that asks for what a test says, in servers over the action factor of 100."""

    learnt = True
    exploration = 0.0
    version = "v1"
    fields = notebook_fields(5)

    def __init__(self, servers: float) -> None:
        self._servers = servers

    def answers(self, _observation):
        return (self._servers / 100,)


@dataclass(frozen=True)
class Report:
    """What a matchmaker says; its demand None: it says nothing."""

    demand: float | None
    allocated: int | None
    tickets: int | None

    def message(self, at: datetime) -> Demand:
        supply = Supply(allocated=self.allocated)
        return Demand(
            fleet="default",
            demand=self.demand,
            observed_at=at,
            supply=supply,
            tickets_waiting=self.tickets,
        )


@dataclass(frozen=True)
class Happening:
    """One step's time."""

    ask: float
    """In servers; may be beyond every limit."""
    report: Report
    between: Report
    """Before the next step."""
    environment: bool
    """Whether it steps; or else its worker is down."""
    shadow: bool
    counted: int | None
    """Allocated servers, in a review that the fleet's controller sends before anybody asks."""
    asked_after_s: tuple[float, ...]
    """When a caller asks, in seconds after the step was due; one asks right after it, always."""


REPORTS = st.builds(
    Report,
    demand=st.integers(0, 300).map(float) | st.none(),
    allocated=st.integers(0, 250) | st.none(),
    tickets=st.integers(0, 20) | st.none(),
)


def happenings_with(counted):
    return st.lists(
        st.builds(
            Happening,
            ask=st.integers(-20, 250),
            report=REPORTS,
            between=REPORTS,
            environment=st.sampled_from([True, True, False]),
            shadow=st.sampled_from([False, False, False, True]),
            counted=counted,
            asked_after_s=st.lists(st.floats(0.001, 64.9), max_size=3).map(sorted).map(tuple),
        ),
        min_size=8,
        max_size=40,
    )


HAPPENINGS = happenings_with(st.none())
REVIEWED = happenings_with(st.integers(0, 250) | st.none())


def fleets(**certain):
    """Fleets with these guards for sure, and any of the others."""

    def fleet(low, width, floor, minutes, **guards):
        event = ScheduledFloor(
            f"{SOON.minute} {SOON.hour} * * *",
            ZoneInfo("UTC"),
            timedelta(minutes=minutes),
            max(1, low + floor * width // 100),
        )
        return FleetSettings(
            min_servers=low,
            max_servers=low + width,
            observation="notebook",
            scheduled_floors=(event,) if floor else (),
            decision_ttl=100,
            **guards,
        )

    guards = {
        "max_step_up": st.integers(0, 20),
        "max_step_down": st.integers(0, 20),
        "scale_down_delay": st.integers(0, 6),
        "floor_at_allocated": st.booleans(),
        "servers_per_ticket": st.sampled_from([1.0, 0.25, 0.0]),
        **certain,
    }
    return st.builds(
        fleet,
        low=st.integers(0, 40),
        width=st.integers(40, 200),
        floor=st.sampled_from([0, 30, 60, 100]),
        minutes=st.integers(1, 30),
        **guards,
    )


@dataclass(frozen=True)
class Told:
    """An answer, and what was known when it was given."""

    at: datetime
    number: int
    guards: tuple[str, ...]
    floor: float
    """Servers in use and waited for, by the newest report that still counts."""
    counted: int = 0
    """Servers in use, by the newest review that still counts."""


def stepped(
    settings: FleetSettings, record: FleetRecord | None, now: Happening, at: datetime
) -> Commit | None:
    report = now.report
    silent = report.demand is None
    supply = FleetSupply(fleet="default", at=at, supply=Supply(allocated=report.allocated))
    return step_fleet(
        StepInput(
            "default",
            record,
            Asking(now.ask),
            settings.parameters,
            next_due(None if record is None else record.due_at, 65, 0, at),
            at,
            report.demand,
            guards=settings.guards,
            supply=None if silent else supply,
            tickets_waiting=None if silent else report.tickets,
        )
    )


def told_by(
    states: FleetStates, settings: FleetSettings, at: datetime, reported: Demand | None
) -> Told | None:
    """What is told, or would be but for shadow; None where there is nothing to say."""
    try:
        answer = json.loads(states.encoded("default", at, shadow=True))
    except DemandMissing:
        return None
    if answer["shadow"]:
        with pytest.raises(FleetInShadow):
            states.encoded("default", at)
    else:
        assert json.loads(states.encoded("default", at)) == answer
    number = answer["Prediction"]["num_of_gameservers"]
    assert settings.min_servers <= number <= settings.max_servers
    floor = 0.0
    if reported is not None and at - reported.observed_at <= 3 * STEP:
        supply = reported.supply
        floor = settings.guards.floor(supply.allocated, reported.tickets_waiting)
    return Told(at, number, tuple(answer["guards"]), floor)


def played(settings: FleetSettings, happenings: list[Happening]) -> Iterator[Told]:
    """Play what happens, and yield every number that is told.

    What nobody was told can't be held against the next number, so somebody asks at every step.
    """
    states = FleetStates(Fleets({"default": settings}))
    record: FleetRecord | None = None
    reported: Demand | None = None
    counted = FleetSupply(fleet="default", at=NOW, supply=Supply(allocated=0))

    for number, now in enumerate(happenings):
        at = NOW + number * STEP
        states.update(FleetMode(fleet="default", shadow=now.shadow, since=at))
        if now.report.demand is not None:
            reported = now.report.message(at)
            states.update(reported)
        if now.counted is not None:
            allocated = Supply(allocated=now.counted)
            counted = FleetSupply(fleet="default", at=at, supply=allocated)
            states.update(counted)
        if now.environment:
            commit = stepped(settings, record, now, at)
            if commit is not None:
                # A restart at every step: all that it knows is what was committed.
                record = FleetRecord.model_validate_json(commit.record.model_dump_json())
                states.update(commit.decision)
        for after_s in (0.0, *now.asked_after_s):
            if after_s > 30 and now.between.demand is not None:
                reported = now.between.message(at + timedelta(seconds=30))
                states.update(reported)
            told = told_by(states, settings, at + timedelta(seconds=after_s), reported)
            if told is not None:
                counts = told.at - counted.at <= timedelta(seconds=SUPPLY_SECONDS)
                in_use = counted.supply.allocated if counts else 0
                assert told.number >= min(in_use, settings.max_servers)
                yield replace(told, counted=in_use)


@given(fleets(), REVIEWED)
def test_what_is_told_is_within_the_limits(settings, happenings):
    """And not below what Agones counts: `played` asserts both of every answer."""
    assert all(told.number >= 0 for told in played(settings, happenings))


@given(fleets(floor_at_allocated=st.just(True)), HAPPENINGS)
def test_what_is_told_is_never_below_the_servers_in_use(settings, happenings):
    for told in played(settings, happenings):
        assert told.number >= min(math.floor(told.floor), settings.max_servers)


@given(fleets(max_step_up=st.integers(1, 20), max_step_down=st.integers(1, 20)), REVIEWED)
def test_what_is_told_never_moves_faster_than_it_may(settings, happenings):
    """But for servers in use. A number that stood for some steps has as many moves to make."""
    for before, after in itertools.pairwise(played(settings, happenings)):
        moves = max(1, math.ceil((after.at - before.at) / STEP))
        assert after.number >= before.number - moves * settings.max_step_down
        if after.number > max(before.number + moves * settings.max_step_up, after.counted):
            assert "allocated_floor" in after.guards


@given(
    fleets(
        max_step_up=st.integers(1, 20),
        max_step_down=st.integers(1, 20),
        floor_at_allocated=st.just(False),
    ),
    HAPPENINGS,
)
def test_without_a_floor_at_servers_in_use_nothing_makes_a_faster_move(settings, happenings):
    for before, after in itertools.pairwise(played(settings, happenings)):
        moves = max(1, math.ceil((after.at - before.at) / STEP))
        assert before.number - moves * settings.max_step_down <= after.number
        assert after.number <= before.number + moves * settings.max_step_up


@given(st.integers(5, 30), st.integers(1, 100), st.integers(0, 64))
def test_a_known_event_finds_its_servers_up_and_no_step_was_too_large(up, servers, phase):
    """The policy asks for the least, all the time; the matchmaker is silent for a while."""
    event = ScheduledFloor(
        f"{SOON.minute} {SOON.hour} * * *", ZoneInfo("UTC"), timedelta(minutes=10), servers
    )
    settings = FleetSettings(
        min_servers=0, observation="notebook", max_step_up=up, scheduled_floors=(event,)
    )
    record, allocations = None, []
    for number in range(40):
        at = SOON - timedelta(seconds=phase) + (number - 30) * STEP
        commit = step_fleet(
            StepInput(
                "default",
                record,
                Asking(0),
                settings.parameters,
                next_due(None if record is None else record.due_at, 65, 0, at),
                at,
                None if 18 < number < 24 else 0.0,
                guards=settings.guards,
            )
        )
        if record is not None:
            assert commit.decision.target <= record_target(record) + up + 1e-3
        record = commit.record
        allocations.append((at, commit.transition.allocation))
    during = [up for at, up in allocations if SOON - STEP < at < SOON + timedelta(minutes=8)]
    assert during == [servers] * len(during)
    assert len(during) > 7


def record_target(record: FleetRecord) -> float:
    told = record.next_target
    return record.next_action * 100 if told is None else told


@pytest.mark.parametrize("limited", [True, False])
def test_a_silent_environment_is_stood_in_for_from_what_it_told_last(limited):
    pace = {"max_step_up": 5, "max_step_down": 2} if limited else {}
    settings = FleetSettings(observation="notebook", decision_ttl=100, **pace)
    states = FleetStates(Fleets({"default": settings}))
    due = next_due(None, 65, 0, NOW)
    commit = step_fleet(
        StepInput(
            "default", None, Asking(40), settings.parameters, due, NOW, 30.0, guards=settings.guards
        )
    )
    states.update(commit.decision)

    def told(seconds, demand):
        at = NOW + timedelta(seconds=seconds)
        states.update(Demand(fleet="default", demand=demand, observed_at=at))
        answer = json.loads(states.encoded("default", at))
        return answer["Prediction"]["num_of_gameservers"], answer["fallback"]

    silent = "stale_decision"
    first = [told(50, 30), told(101, 64), told(130, 8), told(170, 64), told(301, 8)]
    if not limited:
        assert first == [(40, None), (80, silent), (10, silent), (80, silent), (10, silent)]
        return
    assert first == [(40, None), (45, silent), (45, silent), (50, silent), (46, silent)]
    states.update(commit.decision.model_copy(update={"decided_at": NOW + timedelta(seconds=305)}))
    back = [told(306, 30), told(307, 30), told(371, 30), told(372, 30)]
    assert back == [(44, None), (44, None), (42, None), (42, None)]
    assert told(403, 30) == (42, None)
