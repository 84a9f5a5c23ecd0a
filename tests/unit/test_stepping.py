import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.environment.fleet_loop import FleetLoop
from services.environment.step import Commit, Due, StepInput, next_due, step_fleet
from shared.core.fields import notebook_fields
from shared.core.gameserver_env import GameServerEnv
from shared.core.parameters import FleetParameters
from shared.messages import FleetRecord, utc_now
from shared.policies.runtime import RulePolicy
from shared.settings import FleetSettings
from tests.policies import OneByOne

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PARAMETERS = FleetParameters()
RULE = RulePolicy(PARAMETERS)


class Constant(OneByOne):
    """A learnt policy that always says the same."""

    learnt = True
    exploration = 0.05
    fields = notebook_fields(PARAMETERS.history_len)

    def __init__(self, action: float, version: str = "v1") -> None:
        self.version = version
        self._action = action

    def answers(self, _observation):
        return (self._action,)


def run(demands, policy=RULE, parameters=PARAMETERS, draw=None) -> list[Commit]:
    commits: list[Commit] = []
    record: FleetRecord | None = None
    for number, demand in enumerate(demands):
        due = Due(NOON + timedelta(seconds=65 * number), 0)
        commit = step_fleet(
            StepInput("default", record, policy, parameters, due, due.at, demand, draw=draw)
        )
        assert commit is not None
        commits.append(commit)
        record = commit.record
    return commits


def test_a_live_fleet_walks_through_the_same_states_as_the_gymnasium_class():
    demands = [20.0, 35.5, 90.0, 400.0, 3.0, 50.0, 60.0, 70.0, 80.0]
    commits = run(demands)
    env = GameServerEnv({"demand": demands})
    observation, _ = env.reset()
    for commit in commits:
        transition = commit.transition
        assert transition.observation == tuple(observation)
        observation, reward, _, _, info = env.step(transition.action)
        assert transition.next_observation == tuple(observation)
        assert transition.reward == reward
        assert transition.allocation == info["allocation"]
        assert transition.target == info["curr_alloc"]


@given(st.lists(st.floats(0, 1000), min_size=12, max_size=30))
def test_allocation_is_the_target_of_five_steps_before_and_decisions_become_targets(demands):
    commits = run(demands)
    for before, after in itertools.pairwise(commits):
        assert after.transition.target == before.decision.target
        assert after.transition.step == before.decision.step == before.transition.step + 1
        assert after.transition.policy_version == before.decision.policy_version
    for late, early in zip(commits[5:], commits, strict=False):
        assert late.transition.allocation == early.transition.target


@given(st.lists(st.floats(0, 1000), min_size=8, max_size=20), st.data())
def test_a_decision_does_not_depend_on_demand_that_comes_after_it(demands, data):
    known = data.draw(st.integers(1, len(demands) - 1))
    other = [*demands[:known], *(demand + 7 for demand in demands[known:])]
    for one, two in zip(run(demands)[:known], run(other)[:known], strict=True):
        assert one.decision == two.decision


def test_without_a_policy_the_rule_decides_and_says_so():
    decision = run([40.0])[0].decision
    assert (decision.fallback, decision.policy_version) == ("no_policy", "rule:trend")


def test_a_learnt_policy_decides_without_fallback():
    decision = run([40.0], Constant(0.5))[0].decision
    assert (decision.fallback, decision.policy_version, decision.target) == (None, "v1", 50.0)


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), float("-inf")])
def test_a_policy_that_gives_no_number_is_answered_for_by_the_rule(nonsense):
    decision = run([40.0], Constant(nonsense))[0].decision
    assert (decision.fallback, decision.policy_version) == ("no_policy", "rule:trend")


def test_missing_demand_holds_demand_and_target_and_is_not_counted_for_training():
    _first, second, held, back = run([40.0, 60.0, None, 61.0], Constant(0.7))
    assert held.transition.stale
    assert not held.recorded.usable
    assert held.transition.reported_demand == second.transition.reported_demand
    assert held.decision.target == second.decision.target
    assert held.decision.fallback == "stale_demand"
    assert held.record.untrained_steps == second.record.untrained_steps == 2
    assert back.recorded.usable
    assert back.decision.fallback is None
    assert back.record.untrained_steps == 3


def test_nothing_known_is_no_step():
    assert (
        step_fleet(StepInput("default", None, RULE, PARAMETERS, Due(NOON, 0), NOON, None)) is None
    )


def test_demand_above_the_limit_is_seen_at_the_limit_and_recorded_as_reported():
    commit = run([400.0])[0]
    assert commit.transition.demand == 100.0
    assert commit.transition.reported_demand == commit.recorded.demand == 400.0
    assert commit.decision.curr_demand == 400.0


def test_new_limits_and_a_longer_history_fit_a_record_of_before():
    record = run([40.0, 60.0, 90.0])[-1].record
    longer = FleetParameters(min_servers=20, max_servers=80, history_len=7)
    rule, due = RulePolicy(longer), Due(NOON, 0)
    commit = step_fleet(StepInput("default", record, rule, longer, due, NOON, 50.0))
    assert commit is not None
    assert len(commit.record.demands) == 7
    assert commit.transition.observation[:7] == (20, 20, 20, 20, 40, 60, 80)


def restarted(commit: Commit, policy, parameters: FleetParameters) -> Commit:
    """The step after, by a worker with other settings; the state comes by way of Redis."""
    record = FleetRecord.model_validate_json(commit.record.model_dump_json())
    due = Due(commit.record.due_at + timedelta(seconds=65), 0)
    after = step_fleet(StepInput("default", record, policy, parameters, due, due.at, 50.0))
    assert after is not None
    return after


@pytest.mark.parametrize(
    "now",
    [
        FleetParameters(max_servers=150.0),
        FleetParameters(action_factor=250.0),
        FleetParameters(action_factor=70.0, max_servers=150.0),
        FleetParameters(history_len=7),
    ],
)
@pytest.mark.parametrize("action", [0.832, 1.3])
def test_a_target_is_asked_for_as_it_was_told_though_settings_have_changed_since(action, now):
    before = run([40.0, 60.0], Constant(action))[-1]
    after = restarted(before, Constant(action), now)
    assert after.transition.target == before.decision.target
    assert after.transition.action * now.action_factor == pytest.approx(100 * action)
    assert after.recorded.ask == pytest.approx(100 * action)
    assert after.transition.policy_version == "v1"
    assert (after.transition.step, after.transition.gap_steps) == (3, 0)


def test_a_lowered_limit_holds_at_once():
    before = run([40.0, 60.0], Constant(0.9))[-1]
    after = restarted(before, Constant(0.9), FleetParameters(max_servers=50.0))
    assert (before.decision.target, after.transition.target, after.decision.target) == (90, 50, 50)


def test_what_an_action_was_drawn_from_is_by_the_present_factor():
    before = run([50.0, 60.0], Constant(0.5), draw=2.0)[-1]
    after = restarted(before, Constant(0.25), FleetParameters(action_factor=200.0))
    assert before.record.next_behaviour == (0.5, 0.05)
    assert after.transition.behaviour == pytest.approx((0.25, 0.025))
    assert after.transition.action == pytest.approx(0.3)
    assert after.transition.action_factor == 200


def test_a_record_of_an_older_version_is_taken_by_the_present_factor():
    record = run([40.0, 60.0], Constant(0.832))[-1].record
    older = record.model_copy(update={"action_factor": None, "next_target": None})
    commit = step_fleet(
        StepInput("default", older, Constant(0.5), PARAMETERS, Due(NOON, 0), NOON, 50.0)
    )
    assert commit is not None
    assert commit.transition.target == 83.2


def stepper_of(**settings) -> FleetLoop:
    return FleetLoop("eu", FleetSettings(**settings), 0.0, None, None, None, None, utc_now, 0)


def test_another_history_len_asks_for_training_with_the_next_step():
    record = run([40.0, 60.0])[-1].record
    assert stepper_of(history_len=5)._for_present_lead(record) == record
    soon = stepper_of(history_len=7, train_batch_size=128)._for_present_lead(record)
    assert soon.untrained_steps == 127
    many = record.model_copy(update={"untrained_steps": 300})
    assert stepper_of(history_len=7)._for_present_lead(many).untrained_steps == 300
    assert stepper_of(history_len=7, learning="on_policy")._for_present_lead(record) == record


@pytest.mark.parametrize(
    ("what", "last_s", "now_s", "due_s", "gap"),
    [
        ("in time", 0, 1, 65, 0),
        ("late by less than a step: at once, no gap", 0, 70, 65, 0),
        ("just due", 0, 65, 65, 0),
        ("a step missed", 0, 131, 130, 1),
        ("away for an hour", 0, 3600, 3575, 54),
        ("woken a moment early", 65, 64.999, 130, 0),
        ("clock set back an hour: a period from now", 3600, 0, 65, 0),
    ],
)
def test_the_clock_of_a_fleet_does_not_drift(what, last_s, now_s, due_s, gap):
    def at(seconds):
        return NOON + timedelta(seconds=seconds)

    assert next_due(at(last_s), 65, 0.5, at(now_s)) == Due(at(due_s), gap), what


def test_new_fleets_start_spread_over_a_period():
    assert next_due(None, 60, 0.25, NOON) == Due(NOON + timedelta(seconds=15), 0)


def test_a_drawn_action_is_asked_for_with_what_it_was_drawn_from():
    first, second = run([50.0, 60.0], Constant(0.5), draw=2.0)
    assert first.decision.action == first.record.next_action == pytest.approx(0.6)
    assert first.decision.target == pytest.approx(60)
    assert second.transition.action == first.decision.action
    assert second.transition.target == pytest.approx(60)
    assert second.transition.behaviour == first.record.next_behaviour == (0.5, 0.05)
    assert first.transition.behaviour is None, "what was before the first step was not drawn"


@pytest.mark.parametrize(("policy", "draw"), [(Constant(0.5), None), (RULE, 2.0)])
def test_nothing_is_drawn_without_a_number_or_a_distribution(policy, draw):
    assert {commit.record.next_behaviour for commit in run([50.0] * 3, policy, draw=draw)} == {None}


def test_a_held_action_was_not_drawn():
    held, after = run([50.0, None, 70.0], Constant(0.5), draw=2.0)[1:]
    assert held.record.next_action == pytest.approx(0.6)
    assert after.transition.behaviour is None


def draws(seed=0, fleet="eu"):
    settings = FleetSettings(learning="on_policy")
    loop = FleetLoop(fleet, settings, 0.0, None, None, None, None, utc_now, seed)
    found = []
    for commit in run([50.0] * 4):
        loop._record = commit.record
        found.append(loop._draw())
    return found


def test_a_step_that_is_done_again_draws_the_same():
    assert draws() == draws()
    assert len(set(draws() + draws(seed=1) + draws(fleet="us"))) == 12


def test_a_fleet_that_learns_on_replay_tries_nothing_out():
    loop = FleetLoop("eu", FleetSettings(), 0.0, None, None, None, None, utc_now, 0)
    assert loop._draw() is None


@pytest.mark.parametrize(("fleets", "seconds"), [(1, 5.0), (1_000, 10.0), (10_000, 65.0)])
def test_thousands_of_new_fleets_do_not_all_look_for_demand_at_once(fleets, seconds):
    loop = FleetLoop("eu", FleetSettings(), 0.0, None, None, None, None, utc_now, fleets=fleets)
    assert loop._period() == seconds
    loop._record = run([50.0])[0].record
    assert loop._period() == 65
