"""What callers are told with guards set, through the environment's step and prediction's states."""

import itertools
import json
import math
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.environment.step import Commit, Due, StepInput, step_fleet
from services.prediction.fleet_states import FleetStates
from shared.core.fields import notebook_fields
from shared.messages import Demand, FleetRecord, FleetSupply, Supply
from shared.settings import Fleets, FleetSettings
from tests.conftest import NOW
from tests.policies import OneByOne

DEMANDS = st.integers(0, 300).map(float) | st.floats(0, 300) | st.none()


class Asking(OneByOne):
    """A policy that asks for what a test says, in servers over the action factor of 100."""

    learnt = True
    exploration = 0.0
    version = "v1"
    fields = notebook_fields(5)
    servers = 0.0

    def answers(self, _observation):
        return (self.servers / 100,)


@dataclass(frozen=True)
class Happening:
    """A step, and what is reported before the next."""

    ask: float
    """In servers; may be beyond every limit."""
    demand: float | None
    allocated: int | None
    tickets: int | None
    demand_after: float | None


HAPPENINGS = st.lists(
    st.builds(
        Happening,
        ask=st.integers(-20, 250),
        demand=DEMANDS,
        allocated=st.integers(0, 250) | st.none(),
        tickets=st.integers(0, 20) | st.none(),
        demand_after=DEMANDS,
    ),
    min_size=5,
    max_size=40,
)


def fleets(**guards):
    """Fleets with these guards for sure, and any of the others."""
    return st.builds(
        lambda low, width, **guards: FleetSettings(
            min_servers=low, max_servers=low + width, observation="notebook", **guards
        ),
        low=st.integers(0, 40),
        width=st.integers(40, 200),
        **{
            "max_step_up": st.integers(0, 20),
            "max_step_down": st.integers(0, 20),
            "scale_down_delay": st.integers(0, 6),
            "floor_at_allocated": st.booleans(),
            "servers_per_ticket": st.sampled_from([1.0, 0.25, 0.0]),
            **guards,
        },
    )


def stepped(settings, record, number, ask, demand, allocated=None, tickets=None) -> Commit | None:
    policy = Asking()
    policy.servers = ask
    due = Due(NOW + timedelta(seconds=65 * number), 0)
    return step_fleet(
        StepInput(
            "default",
            record,
            policy,
            settings.parameters,
            due,
            due.at,
            demand,
            guards=settings.guards,
            supply=FleetSupply(fleet="default", at=due.at, supply=Supply(allocated=allocated)),
            tickets_waiting=tickets,
        )
    )


def told_by(states, at) -> dict:
    return json.loads(states.encoded("default", at))


@dataclass(frozen=True)
class Seen:
    """A committed step, and what callers were told until the next."""

    commit: Commit
    numbers: tuple[int, ...]
    floor: float
    wanted: float
    """By the policy or the demand, in servers; while the matchmaker was silent what was held."""


def played(settings: FleetSettings, happenings: list[Happening]) -> list[Seen]:
    """Step through what happens; each step begins with a restart, from the record in JSON."""
    states, record, steps = FleetStates(Fleets({"default": settings})), None, []
    for number, now in enumerate(happenings):
        silent = now.demand is None
        floor = 0.0 if silent else settings.guards.floor(now.allocated, now.tickets)
        reported = (None, None) if silent else (now.allocated, now.tickets)
        commit = stepped(settings, record, number, now.ask, now.demand, *reported)
        if commit is None:
            continue
        record = FleetRecord.model_validate_json(commit.record.model_dump_json())
        at = commit.decision.decided_at + timedelta(seconds=30)
        states.update(commit.decision)
        numbers = [told_by(states, at)["Prediction"]["num_of_gameservers"]]
        if now.demand_after is not None:
            states.update(Demand(fleet="default", demand=now.demand_after, observed_at=at))
            numbers.append(told_by(states, at)["Prediction"]["num_of_gameservers"])
        wanted = commit.transition.target if silent else max(now.ask, now.demand)
        steps.append(Seen(commit, tuple(numbers), floor, min(wanted, settings.max_servers)))
    return steps


@given(fleets(floor_at_allocated=st.just(True)), HAPPENINGS)
def test_what_is_told_is_within_the_limits_and_never_below_the_floor(settings, happenings):
    for step in played(settings, happenings):
        lowest = max(settings.min_servers, min(step.floor, settings.max_servers))
        assert all(lowest <= number <= settings.max_servers for number in step.numbers)


@given(fleets(max_step_up=st.integers(1, 20), max_step_down=st.integers(1, 20)), HAPPENINGS)
def test_what_is_told_never_moves_faster_than_it_may(settings, happenings):
    guards = settings.guards
    steps = played(settings, happenings)
    assert all(len(set(step.numbers)) == 1 for step in steps), "a report between steps moves none"
    for before, after in itertools.pairwise(steps):
        if after.numbers[0] > before.numbers[0] + guards.max_step_up:
            assert after.numbers[0] == min(math.ceil(after.floor), settings.max_servers)
            assert "allocated_floor" in after.commit.decision.guards
        assert after.numbers[0] >= before.numbers[0] - guards.max_step_down


@given(fleets(scale_down_delay=st.integers(1, 6)), HAPPENINGS)
def test_less_is_told_only_after_less_was_wanted_for_long_enough(settings, happenings):
    steps = played(settings, happenings)
    for number, (before, after) in enumerate(itertools.pairwise(steps), 1):
        if after.commit.decision.target < before.commit.decision.target:
            window = steps[max(0, number - settings.scale_down_delay) : number]
            highest = max(step.wanted for step in window)
            assert highest <= after.commit.decision.target + 0.001


@given(fleets(), HAPPENINGS)
def test_what_was_told_is_asked_for_and_becomes_the_allocation(settings, happenings):
    commits = [step.commit for step in played(settings, happenings)]
    for before, after in itertools.pairwise(commits):
        assert after.transition.target == before.decision.target
        assert after.transition.observation == before.transition.next_observation
    for early, late in zip(commits, commits[5:], strict=False):
        assert late.transition.allocation == early.transition.target


def test_a_silent_matchmaker_holds_the_guarded_target_and_not_the_ask():
    settings = FleetSettings(observation="notebook", max_step_up=5)
    record, targets = None, []
    for number, demand in enumerate([20.0, 20.0, None, None, 20.0]):
        commit = stepped(settings, record, number, 20 if number == 0 else 90, demand)
        record = commit.record
        targets.append(commit.decision.target)
    assert targets == [20, 25, 25, 25, 30]


def test_guards_taken_away_let_the_ask_through():
    slow = FleetSettings(observation="notebook", max_step_up=5, scale_down_delay=3)
    first = stepped(slow, None, 0, 20, 20.0)
    second = stepped(slow, first.record, 1, 90, 20.0)
    assert (second.decision.target, second.record.asks) == (25, (20, 90))
    free = FleetSettings(observation="notebook")
    third = stepped(free, second.record, 2, 30, 20.0)
    assert third.transition.target == 25, "it had been told"
    assert (third.decision.target, third.record.asks, third.record.next_target) == (30, (), 30)


def test_the_rule_of_a_silent_environment_keeps_to_the_floor():
    settings = FleetSettings(floor_at_allocated=True, max_step_up=1)
    states = FleetStates(Fleets({"default": settings}))
    supply = Supply(allocated=70)
    states.update(
        Demand(fleet="default", demand=40, observed_at=NOW, supply=supply, tickets_waiting=6)
    )
    answer = told_by(states, NOW)
    assert answer["Prediction"]["num_of_gameservers"] == 76
    assert (answer["fallback"], answer["guard"]) == ("stale_decision", "allocated_floor")


def test_a_decision_names_its_guards_the_deciding_one_first():
    settings = FleetSettings(observation="notebook", max_step_up=5)
    first = stepped(settings, None, 0, 20, 20.0)
    states = FleetStates(Fleets({"default": settings}))
    states.update(stepped(settings, first.record, 1, 40, 60.0).decision)
    answer = told_by(states, NOW + timedelta(seconds=66))
    assert answer["guard"] == "max_step_up"
    assert answer["guards"] == ["max_step_up", "below_demand"]
    assert answer["Prediction"]["num_of_gameservers"] == 25
    assert answer["Prediction"]["action"] == 0.4
    assert answer["Prediction"]["is_false_positive"] == 1
