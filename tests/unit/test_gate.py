import itertools
import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from services.environment.step import Due, StepInput, step_fleet
from services.trainer.fleet_training import GATE_PART, LEAST_STEPS, stored_contenders
from shared.core.evaluation import evaluate
from shared.core.fields import notebook_fields
from shared.core.guards import NO_GUARDS, Guards, guarded_series
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import decide, observations_after
from shared.core.schedule import ScheduledFloor
from shared.core.tuning import tune
from shared.learning.models.rule_policy import SERVABLE_RULES, TunedRulePolicy
from shared.learning.selection.contenders import tuned_rules
from shared.learning.selection.gate import CANDIDATE, cost_on, select
from shared.learning.selection.live import (
    LEAST_LIVE_STEPS,
    MOST_LIVE_STEPS,
    Live,
    instead_of,
    served_by,
    watch,
)
from shared.messages import FleetSupply, Supply
from shared.policies.store import PolicyStore
from shared.recorded_demand import Recorded, hold_out, recorded_of
from tests.conftest import a_step
from tests.policies import OneByOne

PARAMETERS = FleetParameters(observation="calendar")
DAY_STEPS = 144


def days(count, seed=0) -> History:
    """A daily wave with noise, every ten minutes."""
    rng = np.random.default_rng(seed)
    rows = np.arange(count * DAY_STEPS)
    demands = 50 + 30 * np.sin(2 * np.pi * rows / DAY_STEPS) + rng.normal(0, 1, len(rows))
    return History(rows * 600.0, demands, 600.0)


@pytest.mark.parametrize("rule", SERVABLE_RULES, ids=lambda rule: rule.name)
def test_a_served_rule_decides_as_the_tuned_one(rule):
    history = days(9)
    tuned = tune(rule, history, PARAMETERS)
    served = TunedRulePolicy.of(tuned, PARAMETERS)
    assert served is not None
    rows = np.arange(8 * DAY_STEPS, 9 * DAY_STEPS)
    actions = served.actions(
        observations_after(history, PARAMETERS.observation_fields, PARAMETERS, rows)
    )[:, 0]
    wanted = np.clip(tuned.decisions(history, PARAMETERS)[rows], 0, 100)
    assert actions * PARAMETERS.action_factor == pytest.approx(wanted)


def test_the_notebooks_observation_has_no_seasons():
    rules = tuned_rules(days(3), FleetParameters())
    assert set(rules) == {"rule:constant", "rule:buffer", "rule:factor", "rule:trend_buffer"}


def test_what_is_kept_is_neither_learnt_nor_tuned_on():
    recorded = Recorded.unbroken(days(3))
    learnt, kept = hold_out(recorded, GATE_PART, PARAMETERS, LEAST_STEPS)
    cut = len(learnt.history.demands)
    assert cut == pytest.approx(0.8 * 3 * DAY_STEPS, abs=1)
    assert (kept + PARAMETERS.lead_steps >= cut).all()
    assert len(kept) >= LEAST_STEPS


def test_a_short_history_is_learnt_from_whole():
    history = History(np.arange(30) * 600.0, np.full(30, 20.0), 600.0)
    learnt, kept = hold_out(Recorded.unbroken(history), GATE_PART, PARAMETERS, LEAST_STEPS)
    assert len(learnt.history.demands) == 30
    assert not len(kept)


def flat(servers, rows=200) -> tuple[History, np.ndarray]:
    history = History(np.arange(rows) * 600.0, np.full(rows, servers), 600.0)
    return history, np.arange(100, rows - PARAMETERS.lead_steps)


class Steadily(OneByOne):
    """Asks for so many servers at every step."""

    def __init__(self, *servers: float) -> None:
        self._servers = itertools.cycle(servers)

    def answers(self, _observation):
        return (next(self._servers) / 100,)


def judge(contenders, incumbent, live=None, guards=NO_GUARDS, steps=None):
    """The gate on a flat demand of 40; contenders ask for so many servers, or one after the other.

    Targets are as they are given: how a policy adapts to what it meets is not in question here.
    """
    history, rows = flat(40.0)
    rows = rows if steps is None else rows[:steps]

    def scorer(servers):
        asked = np.resize(np.atleast_1d(np.asarray(servers, dtype=float)), len(rows))
        told = guarded_series(asked, history.demands[rows], guards, PARAMETERS)
        held_out = evaluate(told, history, PARAMETERS, rows)
        return math.nan if held_out is None else held_out.cost

    return select(contenders, incumbent, scorer, len(rows), live)


@pytest.mark.parametrize(
    ("what", "contenders", "incumbent", "winner"),
    [
        ("the cheapest", {CANDIDATE: 41.0, "v1": 45.0, "rule:buffer": 50.0}, "v1", CANDIDATE),
        (
            "a rule, if it is cheaper",
            {CANDIDATE: 50.0, "v1": 45.0, "rule:buffer": 41.0},
            "v1",
            "rule:buffer",
        ),
        (
            "the runner-up, when the champion loses",
            {CANDIDATE: 60.0, "v2": 50.0, "v1": 42.0},
            "v2",
            "v1",
        ),
        ("the champion among equals", {CANDIDATE: 45.0, "v1": 45.0}, "v1", "v1"),
        ("the champion by less than a hundredth", {CANDIDATE: 44.97, "v1": 45.0}, "v1", "v1"),
        ("missing servers cost five times", {CANDIDATE: 39.0, "v1": 44.0}, "v1", "v1"),
        ("anybody, where nobody serves", {CANDIDATE: 45.0, "rule:buffer": 46.0}, None, CANDIDATE),
    ],
)
def test_who_wins(what, contenders, incumbent, winner):
    decision = judge(contenders, incumbent)
    assert decision.winner == winner, what
    assert set(decision.costs) == set(contenders)
    assert decision.steps == len(flat(40.0)[1])


def test_a_champion_that_gives_no_number_is_replaced():
    assert judge({CANDIDATE: 60.0, "v1": np.nan}, "v1").winner == CANDIDATE


def test_without_anything_to_score_on_the_champion_stays():
    contenders = {CANDIDATE: 40.0, "v1": 60.0}
    assert judge(contenders, "v1", steps=0).winner == "v1"
    assert judge(contenders, None, steps=0).winner == CANDIDATE


LOST = Live(champion=9.0, runner_up=3.0, steps=500, lost=True)
HELD = Live(champion=9.0, runner_up=3.0, steps=20, lost=False)


@pytest.mark.parametrize(
    ("what", "contenders", "live", "winner", "demoted"),
    [
        ("it stays while it does not lose", {CANDIDATE: 44.0, "v2": 41.0}, HELD, "v2", False),
        (
            "it goes where it has lost, to the cheapest other",
            {CANDIDATE: 44.0, "v2": 41.0, "v1": 43.0, "rule:buffer": 45.0},
            LOST,
            "v1",
            True,
        ),
        ("a winner of the gate is no demotion", {CANDIDATE: 41.0, "v2": 44.0}, LOST, None, False),
        ("nobody else can serve", {"v2": 41.0}, LOST, "v2", False),
    ],
)
def test_a_champion_that_has_lost_live(what, contenders, live, winner, demoted):
    verdict = judge(contenders, "v2", live)
    assert (verdict.winner, verdict.demoted) == (winner or CANDIDATE, demoted), what
    assert verdict.live == live
    assert ("has cost 9.000 a step live" in (verdict.reason or "")) == demoted


ENOUGH = LEAST_LIVE_STEPS


@pytest.mark.parametrize(
    ("what", "up", "runner_up", "lost"),
    [
        ("it costs less", [45.0] * ENOUGH, [46.0] * ENOUGH, False),
        ("it costs more for long", [46.0] * ENOUGH, [45.0] * ENOUGH, True),
        ("not for long enough", [46.0] * (ENOUGH - 1), [45.0] * (ENOUGH - 1), False),
        ("not by enough", [45.2] * ENOUGH, [45.0] * ENOUGH, False),
        ("one bad hour", [40.0] * (ENOUGH - 9) + [90.0] * 9, [42.0] * ENOUGH, False),
        ("that is over", [90.0] * 99 + [41.0] * ENOUGH, [42.0] * (ENOUGH + 99), False),
        ("missing servers cost five times", [39.0] * ENOUGH, [44.0] * ENOUGH, True),
        ("the runner-up gives no number", [46.0] * ENOUGH, [np.nan] * ENOUGH, False),
    ],
)
def test_when_a_champion_has_lost_live(what, up, runner_up, lost):
    history, _ = flat(40.0, rows=600)
    rows = np.arange(100, 100 + len(up))
    live = watch(np.array(up), np.array(runner_up), history, PARAMETERS, rows)
    assert live.lost == lost, what
    assert live.steps == len(up)
    assert live.champion == pytest.approx(np.mean([x - 40 if x > 40 else 5 * (40 - x) for x in up]))


def test_nothing_is_told_of_a_champion_that_has_not_served():
    none = np.empty(0, dtype=np.int64)
    assert watch(np.empty(0), np.empty(0), flat(40.0)[0], PARAMETERS, none) is None


def live_steps(count, version_from, gap=None):
    """Steps of which those from `version_from` on were asked for by v2; `gap` one is missing."""
    return [
        a_step(
            number,
            at=datetime.fromtimestamp(65.0 * number, UTC),
            servers=30.0 + number % 7,
            allocation=float(number),
            policy_version="v2" if number >= version_from else "v1",
            gap_steps=int(number == gap),
        )
        for number in range(1, count + 1)
    ]


def rows_and_allocations(steps):
    recorded = recorded_of(
        [made.recorded._replace(gap_steps=made.transition.gap_steps) for made in steps],
        65.0,
    )
    transitions = [made.transition for made in steps]
    served = served_by("v2", transitions, recorded, PARAMETERS)
    return served.rows.tolist(), served.up.tolist()


def test_a_champion_answers_for_what_it_has_asked_for_itself():
    rows, up = rows_and_allocations(live_steps(40, version_from=21))
    # Row 19 is step 20: what is decided after it is asked for at step 21 and up at step 26.
    assert (rows[0], up[0]) == (19, 26.0)
    assert (rows[-1], up[-1]) == (33, 40.0)
    assert len(rows) == 15


def test_no_gap_is_between_a_live_decision_and_its_demand():
    rows, _ = rows_and_allocations(live_steps(60, version_from=21, gap=40))
    assert not {row for row in rows if row < 39 <= row + PARAMETERS.lead_steps}
    assert {19, 32, 43} <= set(rows)


def test_only_the_newest_live_steps_count():
    rows, _ = rows_and_allocations(live_steps(MOST_LIVE_STEPS + 100, version_from=2))
    assert len(rows) == MOST_LIVE_STEPS
    assert rows[-1] == MOST_LIVE_STEPS + 99 - PARAMETERS.lead_steps


class AsksFor(OneByOne):
    """A policy that asks for the last demand and a few servers more."""

    learnt = True
    exploration = 0.0
    version = "v2"
    fields = notebook_fields(5)

    def __init__(self, more: float) -> None:
        self._more = more

    def answers(self, observation):
        return ((observation[4] + self._more) / 100,)


@pytest.mark.parametrize(
    "now",
    [
        FleetParameters(max_servers=150.0, action_factor=150.0),
        FleetParameters(max_servers=70.0),
        FleetParameters(history_len=7),
        FleetParameters(history_len=7, observation="calendar"),
    ],
)
def test_champion_and_runner_up_are_in_the_contest_whatever_limits_they_were_made_for(
    tmp_path, publish_policy, now
):
    """The mean over 100 is scored as the servers that it would ask for by the present settings."""
    store = PolicyStore.at(tmp_path)
    publish_policy(store, "v1")
    champion = publish_policy(store, "v2")
    costs, usual = (contest_on(by, store, champion) for by in (now, FleetParameters()))
    assert costs["v1"] == costs["v2"] == pytest.approx(usual["v2"], rel=0.05)
    assert costs["v2"] < costs[CANDIDATE] / 10


def contest_on(parameters, store, champion):
    """What each costs on a constant demand, beside a candidate that asks for nothing."""
    history, rows = flat(60.0)
    contenders = {CANDIDATE: Steadily(0.0)}
    contenders |= stored_contenders(store, champion, (), parameters)
    scorer = cost_on(history, rows[:-2], parameters)
    return select(contenders, champion.version, scorer, len(rows[:-2])).costs


def test_a_contender_that_plans_too_far_is_left_out(tmp_path, publish_policy):
    store = PolicyStore.at(tmp_path)
    champion = publish_policy(store, "v1")
    assert stored_contenders(store, champion, (), FleetParameters(history_len=3)) == {}


NEXT_DAY = ScheduledFloor("0 12 * * *", ZoneInfo("UTC"), timedelta(hours=1), 90)
STRICT = Guards(max_step_up=1, max_step_down=1, floor_at_allocated=True)


def guarded_live(guards: Guards, more: float):
    """A champion on a wave that strict guards can not follow: what it saw, and what it did."""
    record, steps, transitions = None, [], []
    for number in range(700):
        at = datetime(2026, 11, 22, 9, tzinfo=UTC) + timedelta(seconds=65 * number)
        demand = 50 + 30 * np.sin(number / 30)
        supply = Supply(allocated=int(demand) if number % 3 else 75)
        commit = step_fleet(
            StepInput(
                "default",
                record,
                AsksFor(more),
                PARAMETERS,
                Due(at, 0),
                at,
                demand,
                guards=guards,
                supply=FleetSupply(fleet="default", at=at, supply=supply),
            )
        )
        record = commit.record
        steps.append(commit.recorded)
        transitions.append(commit.transition)
    return recorded_of(steps, 65.0), transitions


def watched(guards: Guards, run_through: Guards, champion: float = 4) -> Live:
    """Beside a runner-up that asks for four servers more than the demand."""
    recorded, transitions = guarded_live(guards, champion)
    runner_up = AsksFor(4)
    served = served_by("v2", transitions, recorded, PARAMETERS)
    history = recorded.history
    rows = served.rows
    targets = decide(runner_up, history, PARAMETERS)[rows]
    instead = instead_of(served, targets, history, PARAMETERS, run_through)
    return watch(served.up, instead, history, PARAMETERS, rows)


@pytest.mark.parametrize(
    "guards",
    [
        STRICT,
        Guards(max_step_up=3, scale_down_delay=6, scheduled_floors=(NEXT_DAY,)),
        Guards(floor_at_allocated=True),
        NO_GUARDS,
    ],
)
def test_a_champion_is_not_charged_for_guards_that_its_equal_would_have_had(guards):
    live = watched(guards, guards)
    assert not live.lost
    assert live.steps == 690
    assert live.champion == pytest.approx(live.runner_up, rel=0.001)


def test_without_the_guards_its_equal_would_have_seemed_better():
    live = watched(STRICT, NO_GUARDS)
    assert live.lost, "so the guards of the test do bind"


def test_a_better_runner_up_is_still_seen_through_the_guards():
    guards = Guards(max_step_up=10, max_step_down=10)
    assert watched(guards, guards, champion=40).lost, "it learns, but not as fast"


def test_contenders_are_scored_on_what_the_guards_make_of_their_asks():
    contenders = {CANDIDATE: [60.0, 40.0], "v1": 47.0}
    assert judge(contenders, "v1").costs == pytest.approx({CANDIDATE: 10, "v1": 7})
    guards = Guards(scale_down_delay=3)
    assert judge(contenders, "v1", guards=guards).costs == pytest.approx({CANDIDATE: 20, "v1": 7})


def test_the_gates_scorer_replays_through_the_guards():
    history, rows = flat(40.0)
    free, held = (
        cost_on(history, rows, PARAMETERS, guards)(Steadily(60.0, 40.0))
        for guards in (NO_GUARDS, Guards(scale_down_delay=3))
    )
    assert held > 1.5 * free, "what it would give back is held for three steps"
