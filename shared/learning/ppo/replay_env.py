"""Recorded demand as a simulator: a vectorised environment over it."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.dynamics import FleetState, step
from shared.core.observation import Encoder
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.learning.models.spaces import action_space, observation_space
from shared.recorded_demand import Recorded, replayable, shortest_run


class ReplayVectorEnv(VectorEnv[FloatArray, FloatArray, NDArray[Any]]):
    """Fleets that each replay a random window of recorded demand, all in one numpy step.

    An episode is `EPISODE_STEPS` long, or as long as its run allows. Its histories start as the
    `history_len` demands before the window; the targets are taken to have met them. The end
    of an episode is a truncation; the step after it resets (`AutoresetMode.NEXT_STEP`, which
    RLlib's runner expects). Observations: float64 ``(num_envs, fields)``, NaN where history does
    not reach; the fields that come from demand are built once for every row.
    Actions: ``(num_envs, 1)``, 1.0 is `action_factor`. Rewards are the fleet's, times
    `reward_scale`. `reset(seed=...)` makes the same rollout again.
    """

    def __init__(
        self,
        recorded: Recorded,
        parameters: FleetParameters,
        num_envs: int,
        reward_scale: float = 1.0,
    ) -> None:
        """Raises `TooLittleHistory` when no run is long enough to replay."""
        usable = replayable(recorded, parameters)
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.parameters = parameters
        self.single_observation_space = observation_space(parameters)
        self.single_action_space = action_space(parameters)
        self.observation_space = gym.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self._reward_scale = reward_scale
        self._demand = usable.history.demands
        self._encoder = Encoder(parameters.observation_fields, parameters.lead_steps)
        self._encoded = self._encoder.encode(usable.history, np.arange(len(self._demand)))
        runs = np.array(usable.runs)
        runs = runs[runs[:, 1] - runs[:, 0] >= shortest_run(parameters)]
        self._starts = runs[:, 0]
        self._playable = runs[:, 1] - runs[:, 0] - parameters.history_len
        self._episode = np.minimum(self._playable, EPISODE_STEPS)
        self._chance = self._playable / self._playable.sum()
        history = np.zeros((num_envs, parameters.history_len))
        self._state = FleetState(demands=history, targets=history.copy())
        self._cursor = np.zeros(num_envs, dtype=np.int64)
        self._end = np.zeros(num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Put every fleet at the start of a new window."""
        super().reset(seed=seed, options=options)
        self._begin(np.ones(self.num_envs, dtype=np.bool_))
        return self._observations(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[FloatArray, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every fleet; one whose episode has ended begins a new one and earns 0."""
        ended = self._cursor >= self._end
        at = np.where(ended, 0, self._cursor)
        outcome = step(self._state, actions[:, 0], self._demand[at], self.parameters)
        self._state = outcome.state
        self._cursor += 1
        if ended.any():
            self._begin(ended)
        rewards = np.where(ended, 0.0, outcome.reward * self._reward_scale)
        truncated = (self._cursor >= self._end) & ~ended
        return self._observations(), rewards, np.zeros_like(truncated), truncated, {}

    def _observations(self) -> FloatArray:
        """What each fleet sees after the row before its cursor."""
        encoded = self._encoded[self._cursor - 1]
        return self._encoder.observations(encoded, self._state.targets)

    def _begin(self, which: NDArray[np.bool_]) -> None:
        """Draw a run by its length and a window within it, for each fleet in `which`."""
        indices = np.flatnonzero(which)
        run = self.np_random.choice(len(self._chance), size=len(indices), p=self._chance)
        length = self._episode[run]
        skip = self.np_random.integers(0, self._playable[run] - length, endpoint=True)
        history = self.parameters.history_len
        first = self._starts[run] + history + skip
        self._cursor[indices] = first
        self._end[indices] = first + length
        before = self._demand[first[:, np.newaxis] + np.arange(-history, 0)]
        self._state.demands[indices] = before
        self._state.targets[indices] = before


def make_replay(config: Mapping[str, Any]) -> ReplayVectorEnv:
    """RLlib's way to make the environment, from an `env_config` with the constructor's names."""
    return ReplayVectorEnv(
        recorded=config["recorded"],
        parameters=config["parameters"],
        num_envs=config["num_envs"],
        reward_scale=config["reward_scale"],
    )
