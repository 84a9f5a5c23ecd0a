"""The trainer's replay: runs of recorded demand, and the vectorised environment over them."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.gameserver_env import GameServerEnv
from shared.core.history import History
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.learning.ppo.replay_env import ReplayVectorEnv
from shared.messages import RecordedStep
from shared.recorded_demand import (
    Recorded,
    TooLittleHistory,
    decision_rows,
    hold_out,
    recorded_of,
    replayable,
)

PARAMETERS = FleetParameters()


def of_runs(*runs):
    """Demand recorded in unbroken runs, an hour between them."""
    lengths = [len(run) for run in runs]
    starts = np.cumsum([0, *lengths[:-1]])
    rows = np.arange(sum(lengths))
    times = 65.0 * rows + 3600.0 * np.searchsorted(starts, rows, side="right")
    return Recorded(History(times, np.concatenate(runs).astype(float), 65.0), starts)


def steps_of(*rows):
    return [
        RecordedStep(step=k, at=65.0 * k, demand=demand, usable=usable, gap_steps=gap)
        for k, (demand, usable, gap) in enumerate(rows, start=1)
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([], [], id="nothing recorded"),
        pytest.param([(1, True, 0), (2, True, 0)], [[1, 2]], id="contiguous"),
        pytest.param([(1, True, 0), (1, False, 0), (3, True, 0)], [[1], [3]], id="held demand"),
        pytest.param([(1, True, 0), (2, True, 4), (3, True, 0)], [[1], [2, 3]], id="gap"),
        pytest.param([(1, False, 0), (1, False, 2)], [], id="only held demand"),
        pytest.param([(1, True, 7), (2, True, 0)], [[1, 2]], id="gap before the first"),
        pytest.param(
            [(1, True, 0), (1, False, 3), (2, True, 0)], [[1], [2]], id="held after a gap"
        ),
    ],
)
def test_runs_break_at_gaps_and_held_demand(rows, expected):
    recorded = recorded_of(steps_of(*rows), 65.0)
    demands = recorded.history.demands
    assert [demands[first:end].tolist() for first, end in recorded.runs] == expected
    assert (recorded.history.times % 65.0 == 0).all()


def test_a_clock_that_was_set_back_leaves_times_ascending():
    steps = [RecordedStep(k, at, k, True, 0) for k, at in enumerate([0, 65, 130, 195, 70, 135], 1)]
    recorded = recorded_of(steps, 65.0)
    assert recorded.history.times.tolist() == [0, 65, 70, 135]
    assert recorded.history.demands.tolist() == [1, 2, 5, 6]
    assert recorded.runs == [(0, 2), (2, 4)]


def test_too_short_history_says_how_much_is_needed():
    with pytest.raises(TooLittleHistory, match="has 10 steps and learning needs 11"):
        replayable(of_runs(np.ones(10), np.ones(3)), PARAMETERS)
    with pytest.raises(TooLittleHistory, match="has 0 steps"):
        replayable(recorded_of([], 65.0), PARAMETERS)


def test_demand_is_clipped_to_the_limits_and_short_runs_have_no_decisions():
    recorded = replayable(of_runs(np.ones(10), np.full(11, 500.0)), PARAMETERS)
    assert recorded.history.demands.tolist() == [10.0] * 10 + [100.0] * 11
    # The fifth demand of the second run is the newest seen, its last one is met.
    assert decision_rows(recorded, PARAMETERS).tolist() == [14]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.5),
)
def test_held_out_demand_is_the_newest_and_is_not_learnt_from(lengths, fraction):
    recorded = of_runs(*(np.zeros(length) for length in lengths))
    learnt, held = hold_out(recorded, fraction, PARAMETERS)
    rows = sum(lengths)
    first_held = rows - int(fraction * rows)
    if not len(held):
        return
    assert len(learnt.history.demands) == first_held
    assert (held + PARAMETERS.lead_steps >= first_held).all()
    assert set(held) <= set(decision_rows(recorded, PARAMETERS))


def test_held_out_part_of_one_long_run():
    learnt, held = hold_out(of_runs(np.arange(100.0)), 0.2, PARAMETERS)
    assert learnt.history.demands.tolist() == list(range(80))
    assert held.tolist() == list(range(79, 94))


def test_nothing_is_held_out_when_too_little_would_be_left():
    learnt, held = hold_out(of_runs(np.arange(11.0)), 0.2, PARAMETERS)
    assert (len(learnt.history.demands), len(held)) == (11, 0)


def rollout(env, seed, steps=50):
    rng = np.random.default_rng(1)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    for _ in range(steps):
        observation, reward, _, truncated, _ = env.step(rng.uniform(0, 1, (env.num_envs, 1)))
        seen += [observation, reward[:, np.newaxis], truncated[:, np.newaxis]]
    return np.concatenate(seen, axis=1)


def test_same_seed_same_rollout():
    recorded = of_runs(np.linspace(10, 90, 400), np.linspace(50, 20, 40))
    first = rollout(ReplayVectorEnv(recorded, PARAMETERS, 8), seed=3)
    again = rollout(ReplayVectorEnv(recorded, PARAMETERS, 8), seed=3)
    other = rollout(ReplayVectorEnv(recorded, PARAMETERS, 8), seed=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=25)
@given(
    demand=st.lists(st.floats(0, 150), min_size=8, max_size=40),
    seed=st.integers(0, 1000),
    reward=st.sampled_from(["asymmetric", "notebook"]),
)
def test_equals_the_gymnasium_environment_stepped_alone(demand, seed, reward):
    parameters = FleetParameters(reward=reward)
    # The single environment starts with both histories at the minimum; so does this window.
    before = [parameters.min_servers] * parameters.history_len
    segment = np.array([*before, *demand])
    batch = ReplayVectorEnv(of_runs(segment), parameters, num_envs=3)
    single = GameServerEnv({"demand": demand, "reward": reward})
    rng = np.random.default_rng(seed)
    observations, _ = batch.reset(seed=seed)
    actions = rng.uniform(-0.2, 1.2, (len(demand), 3, 1))
    for fleet in range(3):
        expected, _ = single.reset()
        np.testing.assert_allclose(observations[fleet], expected, atol=1e-9)
    replayed = [batch.step(action) for action in actions]
    for fleet in range(3):
        single.reset()
        for k, (observed, rewards, terminated, truncated, _) in enumerate(replayed):
            expected, earned, _, _, _ = single.step(actions[k, fleet])
            np.testing.assert_allclose(observed[fleet], expected, atol=1e-9)
            assert rewards[fleet] == pytest.approx(earned, abs=1e-9)
            assert not terminated[fleet]
            assert truncated[fleet] == (k == len(demand) - 1)


def test_a_target_is_met_five_steps_later():
    """The reward of step k is that of the target asked for at step k - 5."""
    demand = np.full(60, 50.0)
    env = ReplayVectorEnv(of_runs(demand), PARAMETERS, num_envs=2)
    env.reset(seed=0)
    asked = np.linspace(0.2, 0.9, 40)
    rewards = [env.step(np.full((2, 1), action))[1] for action in asked]
    for k in range(PARAMETERS.history_len, len(asked)):
        allocation = asked[k - PARAMETERS.history_len] * PARAMETERS.action_factor
        surplus = allocation - 50.0
        expected = -surplus if surplus > 0 else 5 * surplus
        np.testing.assert_allclose(rewards[k], expected, atol=1e-9)
    # Before that, the targets are taken to have met the demand.
    np.testing.assert_allclose(rewards[: PARAMETERS.history_len], 1.0)


def test_episodes_end_and_begin_again():
    env = ReplayVectorEnv(of_runs(np.arange(20.0, 40.0)), PARAMETERS, num_envs=2, reward_scale=0.5)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    first, _ = env.reset(seed=0)
    playable = 20 - PARAMETERS.history_len
    for k in range(playable):
        *_, truncated, _ = env.step(np.full((2, 1), 0.3))
        assert truncated.all() == (k == playable - 1)
    observation, reward, _, truncated, _ = env.step(np.full((2, 1), 0.3))
    np.testing.assert_array_equal(observation, first)
    assert reward.tolist() == [0.0, 0.0]
    assert not truncated.any()


def test_long_segments_give_episodes_of_the_notebooks_length():
    env = ReplayVectorEnv(of_runs(np.full(1000, 50.0)), PARAMETERS, num_envs=4)
    env.reset(seed=0)
    ended = [env.step(np.full((4, 1), 0.5))[3] for _ in range(EPISODE_STEPS)]
    assert not np.any(ended[:-1])
    assert np.all(ended[-1])


def test_windows_start_with_the_demand_before_them():
    series = np.linspace(10.0, 90.0, 500)
    env = ReplayVectorEnv(of_runs(series), PARAMETERS, num_envs=64)
    observation, _ = env.reset(seed=0)
    history = PARAMETERS.history_len
    np.testing.assert_array_equal(observation[:, :history], observation[:, history:])
    starts = np.searchsorted(series, observation[:, 0])
    assert len(set(starts.tolist())) > 10
    for start, seen in zip(starts, observation[:, :history], strict=True):
        np.testing.assert_array_equal(seen, series[start : start + history])
