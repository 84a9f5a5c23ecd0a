"""A vectorised environment that replays recorded demand."""

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
    """Fleets that each replay a random window of recorded demand, stepped together in numpy.

    An episode has `EPISODE_STEPS` steps, or as many as its run allows. Both histories start as the
    `history_len` demands before the window, as if targets had met demand. The end of an episode is
    a truncation; the step after it resets (`AutoresetMode.NEXT_STEP`, which RLlib's runner
    expects). Observations: float64 ``(num_envs, fields)``, NaN where history is too short; the
    fields of demand are built once for every row. Actions: ``(num_envs, 1)``, 1.0 is
    `action_factor`. Rewards are the fleet's, times `reward_scale`. The same `reset(seed=...)` gives
    the same rollout.
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
        self._probability = self._playable / self._playable.sum()
        history = np.zeros((num_envs, parameters.history_len))
        self._state = FleetState(demands=history, targets=history.copy())
        self._cursor = np.zeros(num_envs, dtype=np.int64)
        self._end = np.zeros(num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start every fleet in a new window."""
        super().reset(seed=seed, options=options)
        self._begin(np.ones(self.num_envs, dtype=np.bool_))
        return self._observations(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[FloatArray, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every fleet; one whose episode has ended starts another, with a reward of 0."""
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
        """Each fleet's observation after the row before its cursor."""
        encoded = self._encoded[self._cursor - 1]
        return self._encoder.observations(encoded, self._state.targets)

    def _begin(self, which: NDArray[np.bool_]) -> None:
        """Draw a run, in proportion to its length, and a window in it, for those in `which`."""
        indices = np.flatnonzero(which)
        run = self.np_random.choice(len(self._probability), size=len(indices), p=self._probability)
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
    """Make the environment from RLlib's `env_config`, by the constructor's argument names."""
    return ReplayVectorEnv(
        recorded=config["recorded"],
        parameters=config["parameters"],
        num_envs=config["num_envs"],
        reward_scale=config["reward_scale"],
    )
