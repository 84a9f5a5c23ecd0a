"""What the live worker shows a policy is what the trainer replays: one encoder, one history."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.environment.decision import encoder_of
from services.environment.history import empty_history, history_of, with_row, within_reach
from services.environment.step import Due, StepInput, step_fleet
from shared.core.history import History
from shared.core.observation import Encoder
from shared.core.parameters import FleetParameters
from shared.core.replay import decide
from shared.learning.ppo.replay_env import ReplayVectorEnv
from shared.messages import RecordedStep
from shared.recorded_demand import recorded_of
from tests.policies import OneByOne

PARAMETERS = FleetParameters(observation="calendar")
FIELDS = PARAMETERS.observation_fields
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
STEP_SECONDS = 1800.0


class Watching(OneByOne):
    """A learnt policy that keeps what it is shown, and answers with a part of it."""

    learnt = True
    version = "v1"
    exploration = 0.0
    fields = FIELDS

    def __init__(self):
        self.seen = []

    def answers(self, observation):
        self.seen.append(list(observation))
        return (float(np.nanmean(observation[:20])) / 100,)


def live(demands, gap_at=None, parameters=PARAMETERS):
    """Step a fleet as the worker does; what its policy saw, and the commits."""
    policy, record, history, commits = Watching(), None, empty_history(STEP_SECONDS), []
    encoder = encoder_of(parameters.observation_fields, parameters.lead_steps)
    number = 0
    for position, demand in enumerate(demands):
        gap = 3 if position == gap_at else 0
        number += 1 + gap
        due = Due(NOON + timedelta(seconds=STEP_SECONDS * number), gap)
        commit = step_fleet(
            StepInput("eu", record, policy, parameters, due, due.at, demand, history)
        )
        commits.append(commit)
        record, history = commit.record, within_reach(commit.history, encoder)
    return policy.seen, commits


def test_live_observations_are_those_of_the_replay():
    """A fortnight of half hours with a gap and held demand, against the trainer's encoding."""
    rng = np.random.default_rng(0)
    demands = [*rng.uniform(5, 120, 400), None, None, *rng.uniform(5, 120, 270)]
    seen, commits = live(demands, gap_at=200)
    # The first decision of all is made on nothing but the initial state.
    assert np.isnan(seen[0]).sum() == len(FIELDS) - 10
    recorded = recorded_of([commit.recorded for commit in commits], STEP_SECONDS)
    clipped = np.clip(recorded.history.demands, 10, 100)
    encoder = Encoder(FIELDS, PARAMETERS.lead_steps)
    history = type(recorded.history)(recorded.history.times, clipped, STEP_SECONDS)
    expected = encoder.encode(history, np.arange(len(clipped)))
    width = expected.shape[1]
    np.testing.assert_array_equal(np.array(seen[1:])[:, :width], expected)
    assert np.isfinite(expected[-1]).all(), "the last row sees last week"
    for shown, commit in zip(seen[1:], [c for c in commits if not c.transition.stale], strict=True):
        assert shown[width:] == list(commit.transition.next_observation[5:])


def test_a_policy_made_for_a_shorter_lead_time_is_shown_what_it_was_made_for():
    """Live and in a backtest: its own fields, at the time that it plans for, the newest targets."""
    longer = FleetParameters(observation="calendar", history_len=8)
    rng = np.random.default_rng(0)
    demands = rng.uniform(15, 95, 100)
    (_, *seen), commits = live(demands.tolist(), parameters=longer)
    times = np.array([commit.recorded.at for commit in commits])
    history = History(times, demands, STEP_SECONDS)
    expected = Encoder(FIELDS, PARAMETERS.lead_steps).encode(history, np.arange(100))
    width = expected.shape[1]
    np.testing.assert_array_equal(np.array(seen[10:])[:, :width], expected[10:])
    for shown, commit in zip(seen, commits, strict=True):
        assert shown[width:] == list(commit.transition.next_observation[-5:])
    replayed = Watching()
    decide(replayed, history, longer)
    np.testing.assert_array_equal(np.array(replayed.seen[10:])[:, :width], expected[10:])


def test_the_replay_environment_shows_the_same():
    """Asked for the same targets, it shows the live policy's observations."""
    seen, commits = live(np.linspace(20, 80, 40).tolist())
    recorded = recorded_of([commit.recorded for commit in commits], STEP_SECONDS)
    env = ReplayVectorEnv(recorded, PARAMETERS, num_envs=1)
    observation, _ = env.reset(seed=0)
    history = PARAMETERS.history_len
    shown = [observation[0]]
    asked = (np.array([[commit.transition.action]]) for commit in commits[history:])
    shown += [env.step(action)[0][0] for action in asked]
    replayed, lived = np.array(shown), np.array(seen[history:])
    np.testing.assert_array_equal(replayed[:, :-history], lived[:, :-history])
    # The first targets are taken to have met demand; then they are what was asked for.
    np.testing.assert_allclose(replayed[history:], lived[history:], rtol=1e-12)


def test_the_ten_numbers_of_messages_stay():
    _, commits = live([50.0] * 8)
    assert {len(commit.decision.observation) for commit in commits} == {10}
    assert {len(commit.transition.observation) for commit in commits} == {10}


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0, 150), st.booleans()), max_size=30),
)
def test_a_history_is_read_back_as_it_grew_whatever_the_clock_did(rows):
    steps = [RecordedStep(k, 60.0 * at, *rest, 0) for k, (at, *rest) in enumerate(rows)]
    history = history_of(steps, PARAMETERS, 60.0)
    grown = empty_history(60.0)
    for step in steps:
        if step.usable:
            grown = with_row(grown, step.at, step.demand, PARAMETERS)
    np.testing.assert_array_equal(history.times, grown.times)
    np.testing.assert_array_equal(history.demands, grown.demands)


@pytest.mark.parametrize("clock_back_to", [70.0, 0.0])
def test_a_clock_that_was_set_back(clock_back_to):
    steps = [RecordedStep(k, 60.0 * k, 20.0 + k, True, 0) for k in range(5)]
    back = [RecordedStep(5 + k, clock_back_to + 60.0 * k, 50.0, True, 0) for k in range(3)]
    live_side = history_of([*steps, *back], PARAMETERS, 60.0)
    trainer_side = recorded_of([*steps, *back], 60.0).history
    assert (np.diff(live_side.times) > 0).all()
    np.testing.assert_array_equal(live_side.times, trainer_side.times)
    np.testing.assert_array_equal(live_side.demands, trainer_side.demands)


def test_a_week_is_kept_and_no_more():
    encoder = encoder_of(FIELDS, PARAMETERS.lead_steps)
    steps = [RecordedStep(k, 65.0 * k, 20.0, True, 0) for k in range(20_000)]
    kept = within_reach(history_of(steps, PARAMETERS, 65.0), encoder)
    assert 9_305 <= len(kept.times) <= 9_310
