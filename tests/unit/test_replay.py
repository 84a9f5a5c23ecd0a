"""The trainer's replay: segments of recorded demand, and the vectorised environment over them."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.replay import (
    ReplayVectorEnv,
    TooLittleHistory,
    hold_out,
    replayable,
    segments_of,
)
from shared.core.gameserver_env import GameServerEnv
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.messages import RecordedStep

PARAMETERS = FleetParameters()


def recorded(*rows):
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
def test_segments_break_at_gaps_and_held_demand(rows, expected):
    assert [segment.tolist() for segment in segments_of(recorded(*rows))] == expected


def test_too_short_history_says_how_much_is_needed():
    with pytest.raises(TooLittleHistory, match="has 10 steps and learning needs 11"):
        replayable([np.ones(10), np.ones(3)], PARAMETERS)
    with pytest.raises(TooLittleHistory, match="has 0 steps"):
        replayable([], PARAMETERS)


def test_demand_is_clipped_to_the_limits_and_short_segments_are_left_out():
    (segment,) = replayable([np.full(11, 500.0), np.ones(10)], PARAMETERS)
    assert segment.tolist() == [100.0] * 11


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.5),
)
def test_held_out_demand_is_the_newest_and_is_not_learnt_from(lengths, fraction):
    series = np.arange(float(sum(lengths)))
    segments = np.split(series, np.cumsum(lengths)[:-1])
    learnt, held = hold_out(segments, fraction, PARAMETERS)
    first_held = len(series) - int(fraction * len(series))
    assert all(segment.max() < first_held for segment in learnt)
    # A history's worth of learnt demand leads in; what is scored comes after it.
    scored = [demand for segment in held for demand in segment[PARAMETERS.history_len :]]
    assert all(demand >= first_held for demand in scored)
    assert all(np.all(np.diff(segment) == 1) for segment in (*learnt, *held))


def test_held_out_part_of_one_long_segment():
    learnt, held = hold_out([np.arange(100.0)], 0.2, PARAMETERS)
    assert [segment.tolist() for segment in learnt] == [list(range(80))]
    assert [segment.tolist() for segment in held] == [list(range(75, 100))]


def rollout(env, seed, steps=50):
    rng = np.random.default_rng(1)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    for _ in range(steps):
        observation, reward, _, truncated, _ = env.step(rng.uniform(0, 1, (env.num_envs, 1)))
        seen += [observation, reward[:, np.newaxis], truncated[:, np.newaxis]]
    return np.concatenate(seen, axis=1)


def test_same_seed_same_rollout():
    segments = [np.linspace(10, 90, 400), np.linspace(50, 20, 40)]
    first = rollout(ReplayVectorEnv(segments, PARAMETERS, 8), seed=3)
    again = rollout(ReplayVectorEnv(segments, PARAMETERS, 8), seed=3)
    other = rollout(ReplayVectorEnv(segments, PARAMETERS, 8), seed=4)
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
    batch = ReplayVectorEnv([segment], parameters, num_envs=3)
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
    env = ReplayVectorEnv([demand], PARAMETERS, num_envs=2)
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
    env = ReplayVectorEnv([np.arange(20.0, 40.0)], PARAMETERS, num_envs=2, reward_scale=0.5)
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
    env = ReplayVectorEnv([np.full(1000, 50.0)], PARAMETERS, num_envs=4)
    env.reset(seed=0)
    ended = [env.step(np.full((4, 1), 0.5))[3] for _ in range(EPISODE_STEPS)]
    assert not np.any(ended[:-1])
    assert np.all(ended[-1])


def test_windows_start_with_the_demand_before_them():
    series = np.linspace(10.0, 90.0, 500)
    env = ReplayVectorEnv([series], PARAMETERS, num_envs=64)
    observation, _ = env.reset(seed=0)
    history = PARAMETERS.history_len
    np.testing.assert_array_equal(observation[:, :history], observation[:, history:])
    starts = np.searchsorted(series, observation[:, 0])
    assert len(set(starts.tolist())) > 10
    for start, seen in zip(starts, observation[:, :history], strict=True):
        np.testing.assert_array_equal(seen, series[start : start + history])
