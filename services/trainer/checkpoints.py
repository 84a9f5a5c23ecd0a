"""A policy from its RLlib checkpoint, and the notebook's evaluation of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.module import ResidualModule
from services.trainer.rllib import DEFAULT_MODULE_ID
from shared.core.curves import PEAK_FRACTION, sine1h
from shared.core.gameserver_env import GameServerEnv
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.errors import BadInput, PolicyCorrupt, PolicyMissing

LEARNER_GROUP = "learner_group"
"""Folder within a checkpoint; both an algorithm's and the on-policy trainer's have it."""
_RL_MODULE = f"learner/rl_module/{DEFAULT_MODULE_ID}"


@dataclass(frozen=True, slots=True)
class EpisodeRewards:
    """The notebook's evaluation: total rewards of episodes of 301 steps."""

    episodes: int
    mean: float
    max: float
    min: float


def load_module(learner_group: Path) -> ResidualModule:
    """The module of a learner group's checkpoint; raises `PolicyMissing` or `PolicyCorrupt`."""
    folder = learner_group / _RL_MODULE
    if not folder.is_dir():
        raise PolicyMissing(
            f"{learner_group} has no checkpoint: train with AUTOPILOT_SAVE_MODEL=1 to have one"
        )
    try:
        module = ResidualModule.from_checkpoint(str(folder.absolute()))
    except Exception as error:  # RLlib unpickles, which raises anything
        raise PolicyCorrupt(f"{folder} is no checkpoint of a policy: {error}") from error
    if not isinstance(module, ResidualModule):
        raise PolicyCorrupt(f"{folder} is a {type(module).__name__}, not a ResidualModule")
    return module


def evaluate_checkpoint(
    checkpoint: Path,
    parameters: FleetParameters,
    episodes: int,
    demand: Sequence[float] | None = None,
) -> EpisodeRewards:
    """Play episodes with the policy of an artefact's `checkpoint/` folder, by its mean action.

    An episode begins with both histories at `min_servers`; its demand goes on where the one
    before ended, and a `demand` (servers, one a step) that ends begins again. None is the
    notebook's sine. Raises `BadInput`, `PolicyMissing` or `PolicyCorrupt`.
    """
    if episodes < 1:
        raise BadInput(f"{episodes} episodes can't be played: give 1 or more")
    module = load_module(checkpoint / LEARNER_GROUP)
    total = episodes * EPISODE_STEPS
    if demand is None:
        peak = PEAK_FRACTION * parameters.max_servers
        played = np.array([sine1h(step, peak) for step in range(1, total + 1)])
    elif len(demand):
        played = np.resize(np.asarray(demand, dtype=np.float64), total)
    else:
        raise BadInput("`demand` is empty: give demands in servers, one a step")
    rewards = [_play(module, parameters, part) for part in played.reshape(episodes, EPISODE_STEPS)]
    return EpisodeRewards(
        episodes=episodes,
        mean=math.fsum(rewards) / episodes,
        max=max(rewards),
        min=min(rewards),
    )


def _play(
    module: ResidualModule, parameters: FleetParameters, demand: NDArray[np.float64]
) -> float:
    """Total reward of one episode."""
    env = GameServerEnv(
        {
            "min_servers": parameters.min_servers,
            "max_servers": parameters.max_servers,
            "action_factor": parameters.action_factor,
            "over_prov_factor": parameters.over_prov_factor,
            "history_len": parameters.history_len,
            "reward": parameters.reward,
            "demand": demand.tolist(),
        }
    )
    observation, _ = env.reset()
    total, ended = 0.0, False
    while not ended:
        action = module.decide(observation[np.newaxis])[0]
        observation, reward, _, ended, _ = env.step(action)
        total += reward
    return total
