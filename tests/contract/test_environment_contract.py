"""The Gymnasium class against the notebook's environment, and against Gymnasium's own checker."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import env_step_passive_checker

from shared.core.gameserver_env import GameServerEnv
from shared.core.parameters import EPISODE_STEPS
from shared.errors import BadInput, BadSetting

BESIDE = Path(__file__).parents[2].parent / "shared"
GOLDEN = BESIDE / "golden" / "notebook_environment.json"
EXACT = 1e-9

# Episodes of the notebook's environment by hand: the configuration, then for each step the action,
# demand, observation after it, reward, and the target that the notebook publishes as curr_alloc.
BY_HAND = [
    pytest.param(
        {"min_servers": 1, "max_servers": 50, "action_factor": 50, "over_prov_factor": 2},
        [
            # Short by 3: -5 * 3, and the last line takes 3 * 2 more.
            (0.4, 4.0, [1, 1, 1, 1, 4, 1, 1, 1, 1, 20], -21.0, 20.0),
            # Demand above the maximum is cut to it: short by 49.
            (2.0, 70.0, [1, 1, 1, 4, 50, 1, 1, 1, 20, 50], -343.0, 50.0),
            # Demand below the minimum is raised to it: met exactly.
            (-0.5, -3.0, [1, 1, 4, 50, 1, 1, 1, 20, 50, 1], 1.0, 1.0),
            (0.0, 1.0, [1, 4, 50, 1, 1, 1, 20, 50, 1, 1], 1.0, 1.0),
            (0.1, 2.0, [4, 50, 1, 1, 2, 20, 50, 1, 1, 5], -7.0, 5.0),
            # The first target has come up: 10 idle cost 10, and the last line pays 20 back.
            (0.1, 10.0, [50, 1, 1, 2, 10, 50, 1, 1, 5, 5], 10.0, 5.0),
            (0.1, 50.0, [1, 1, 2, 10, 50, 1, 1, 5, 5, 5], 1.0, 5.0),
        ],
        id="demand from outside",
    ),
    pytest.param(
        {"min_servers": 10, "max_servers": 100, "action_factor": 100, "over_prov_factor": 0},
        [
            # The sine starts at its second point, with nine tenths of the maximum as its peak.
            (
                1.0,
                None,
                [10] * 4 + [90 * math.sin(0.2 + 2.9 / 60)] + [10] * 4 + [100],
                -5 * (90 * math.sin(0.2 + 2.9 / 60) - 10),
                100.0,
            ),
        ],
        id="the sine",
    ),
]


def golden_episodes():
    if not GOLDEN.is_file():
        return []
    return json.loads(GOLDEN.read_text())["episodes"]


def replay(env, steps):
    """Play (action, observation, reward, done, metrics) and compare every number."""
    for k, (action, observation, reward, done, metrics) in enumerate(steps, 1):
        found, earned, terminated, truncated, info = env.step(action)
        assert found == pytest.approx(observation, abs=EXACT), f"observation of step {k}"
        assert earned == pytest.approx(reward, abs=EXACT), f"reward of step {k}"
        assert (terminated or truncated) == done, f"done of step {k}"
        assert {name: info[name] for name in metrics} == pytest.approx(metrics, abs=EXACT)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="no recorded episodes beside the repository")
@pytest.mark.parametrize("number", range(len(golden_episodes())))
def test_the_recorded_episodes_of_the_notebook(number):
    episode = golden_episodes()[number]
    config = dict(episode["env_config"], reward="notebook")
    if episode["external_demand"] is not None:
        config["demand"] = episode["external_demand"]
    env = GameServerEnv(config)
    assert env.reset()[0] == pytest.approx(episode["reset_observation"], abs=EXACT)
    names = ("action", "observation", "reward", "done", "metrics")
    replay(env, [[step[name] for name in names] for step in episode["steps"]])


@pytest.mark.parametrize(("config", "steps"), BY_HAND)
def test_notebook_episodes_by_hand(config, steps):
    demand = [step[1] for step in steps]
    given = {} if demand[0] is None else {"demand": demand}
    env = GameServerEnv({**config, **given, "reward": "notebook"})
    assert env.reset()[0].tolist() == [config["min_servers"]] * 10
    expected = [
        (
            action,
            observation,
            reward,
            False,
            {"curr_demand": observation[4], "curr_alloc": target, "reward": reward},
        )
        for action, _, observation, reward, target in steps
    ]
    replay(env, expected)


def test_the_true_allocation_is_told_beside_the_notebooks_metrics():
    env = GameServerEnv({"demand": [30.0] * 6})
    env.reset()
    found = [env.step(0.2 + k / 10)[4]["allocation"] for k in range(6)]
    assert found == [10.0] * 5 + [20.0]


def test_the_default_reward_is_what_the_notebooks_text_says():
    env = GameServerEnv({"demand": [10.0, 4.0, 12.0], "min_servers": 5, "over_prov_factor": 5})
    env.reset()
    assert [env.step(1.0)[1] for _ in range(3)] == [-25.0, 1.0, -35.0]


@pytest.mark.parametrize("reward", ["asymmetric", "notebook"])
def test_gymnasiums_checker_is_content(reward):
    with warnings.catch_warnings():
        # Without a registered id the checker can't make it again to look at its pictures.
        warnings.filterwarnings("ignore", message=".*alternative render modes.*")
        check_env(GameServerEnv({"reward": reward}))


def test_the_checkers_step_by_step_rules_hold_for_a_whole_episode():
    env = GameServerEnv()
    env.reset(seed=1)
    env.action_space.seed(1)
    for _ in range(EPISODE_STEPS):
        observation = env_step_passive_checker(env, env.action_space.sample())[0]
        assert observation in env.observation_space


def rollout(env, seed):
    env.action_space.seed(seed)
    first, _ = env.reset(seed=seed)
    rows = [[*first, 0.0]]
    for _ in range(EPISODE_STEPS):
        observation, reward, *_ = env.step(env.action_space.sample())
        rows.append([*observation, reward])
    return np.array(rows)


def test_the_same_seed_gives_the_same_rollout():
    one, again, other = (rollout(GameServerEnv(), seed) for seed in (7, 7, 8))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_reset_forgets_the_episode_before():
    env = GameServerEnv()
    assert np.array_equal(rollout(env, 7), rollout(env, 7))


def test_an_episode_ends_after_301_steps_by_truncation():
    env = GameServerEnv()
    env.reset()
    ends = [env.step(0.5)[2:4] for _ in range(EPISODE_STEPS)]
    assert ends[:-1] == [(False, False)] * 300
    assert ends[-1] == (False, True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"gs_inventory_url": "http://matchmaker/demand"}, "pass `demand`"),
        ({"demand": []}, "non-empty"),
        ({"demand": [1.0, math.nan]}, "finite"),
        ({"demand": [1.0, math.inf]}, "finite"),
        ({"demand": [[1.0, 2.0]]}, "one per step"),
        ({"demand": ["many"]}, "must be numbers"),
        ({"colour": "blue"}, "colour"),
        ({"min_servers": "few"}, "few"),
        ({"history_len": None}, "env_config can't be used"),
    ],
)
def test_a_configuration_that_can_not_be_used(config, says):
    with pytest.raises(BadInput, match=says):
        GameServerEnv(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"min_servers": 20, "max_servers": 10}, "MIN_SERVERS <= MAX_SERVERS"),
        ({"history_len": 1}, "HISTORY_LEN"),
        ({"reward": "kind"}, "REWARD"),
    ],
)
def test_a_configuration_that_contradicts_itself(config, says):
    with pytest.raises(BadSetting, match=says):
        GameServerEnv(config)


def test_the_notebooks_own_keys_are_taken():
    assert GameServerEnv(
        {
            "gs_inventory_url": "local",
            "cloudwatch_namespace": "rl-game-server-autopilot",
            "learning_freq": 65,
            "min_servers": 10,
            "max_servers": 100,
            "action_factor": 100,
            "over_prov_factor": 5,
        }
    )


def test_the_notebook_cuts_its_parameters_to_whole_numbers():
    env = GameServerEnv({"over_prov_factor": 2.9, "min_servers": 5.9, "reward": "notebook"})
    assert env.parameters.over_prov_factor == 2
    assert env.parameters.min_servers == 5


def test_more_steps_than_demand_says_so():
    env = GameServerEnv({"demand": [20.0, 30.0]})
    env.reset()
    env.step(0.5)
    env.step(0.5)
    with pytest.raises(BadInput, match="has 2 steps, and step 3"):
        env.step(0.5)


@pytest.mark.parametrize("action", [math.nan, math.inf, [0.1, 0.2], []])
def test_an_action_that_is_none(action):
    env = GameServerEnv()
    env.reset()
    with pytest.raises(BadInput, match="one finite number"):
        env.step(action)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_an_action_may_be_a_number_or_hold_one(shape):
    env = GameServerEnv()
    env.reset()
    assert env.step(np.full(shape, 0.5, np.float32))[4]["curr_alloc"] == 50.0
