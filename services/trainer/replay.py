"""Recorded demand as a simulator: segments of it, and a vectorised environment over them.

Demand is exogenous (what we allocate does not change what players do), so a recorded series can
be replayed against any policy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from shared.core.dynamics import FleetState, observe, step
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.errors import BadInput
from shared.messages import RecordedStep

FloatArray = NDArray[np.float64]
Segment = FloatArray
"""Contiguous demand in servers, one a step, shape ``(steps,)``."""


class TooLittleHistory(BadInput):
    """A fleet has not recorded enough usable demand to learn from; more steps will mend it."""


def segments_of(steps: Sequence[RecordedStep]) -> list[Segment]:
    """Contiguous runs of usable demand, oldest first: they break at held demand and at gaps."""
    runs: list[list[float]] = [[]]
    for recorded in steps:
        if recorded.gap_steps > 0 or not recorded.usable:
            runs.append([])
        if recorded.usable:
            runs[-1].append(recorded.demand)
    return [np.asarray(run, dtype=np.float64) for run in runs if run]


def shortest_segment(parameters: FleetParameters) -> int:
    """Steps that a segment needs: a history, and a decision that meets its demand."""
    return parameters.history_len + parameters.lead_steps


def replayable(segments: Sequence[Segment], parameters: FleetParameters) -> list[Segment]:
    """The segments that are long enough, clipped to the fleet's limits.

    Raises `TooLittleHistory` when there is none.
    """
    shortest = shortest_segment(parameters)
    long_enough = [
        np.clip(segment, parameters.min_servers, parameters.max_servers)
        for segment in segments
        if len(segment) >= shortest
    ]
    if not long_enough:
        longest = max((len(segment) for segment in segments), default=0)
        raise TooLittleHistory(
            f"the longest unbroken run of recorded demand has {longest} steps and learning needs "
            f"{shortest}: let the fleet run on, and see that its demand arrives at every step"
        )
    return long_enough


def hold_out(
    segments: Sequence[Segment], fraction: float, parameters: FleetParameters
) -> tuple[list[Segment], list[Segment]]:
    """Split off the last `fraction` of the steps: ``(to learn from, held out)``.

    A held-out segment starts with the `history_len` demands before it, which its first decision
    looks back at. What is left too short on either side is dropped.
    """
    spare = int(fraction * sum(len(segment) for segment in segments))
    learnt: list[Segment] = []
    held: list[Segment] = []
    for segment in reversed(segments):
        cut = max(len(segment) - spare, 0)
        spare -= len(segment) - cut
        learnt.append(segment[:cut])
        held.append(segment[max(cut - parameters.history_len, 0) :])
        if cut == len(segment):
            held.pop()
    shortest = shortest_segment(parameters)
    return (
        [segment for segment in reversed(learnt) if len(segment) >= shortest],
        [segment for segment in reversed(held) if len(segment) >= shortest],
    )


class ReplayVectorEnv(VectorEnv[FloatArray, FloatArray, NDArray[Any]]):
    """Fleets that each replay a random window of recorded demand, all in one numpy step.

    An episode is `EPISODE_STEPS` long, or as long as its segment allows. Its histories start as
    the `history_len` demands before the window; the targets are taken to have met them. The end
    of an episode is a truncation; the step after it resets (`AutoresetMode.NEXT_STEP`, which
    RLlib's runner expects). Observations: float64 ``(num_envs, 2 * history_len)``, servers.
    Actions: ``(num_envs, 1)``, 1.0 is `action_factor`. Rewards are the fleet's, times
    `reward_scale`. `reset(seed=...)` makes the same rollout again.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        parameters: FleetParameters,
        num_envs: int,
        reward_scale: float = 1.0,
    ) -> None:
        """Raises `TooLittleHistory` when no segment is long enough to replay."""
        usable = replayable(segments, parameters)
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
        self._demand = np.concatenate(usable)
        lengths = np.array([len(segment) for segment in usable])
        self._starts = np.cumsum(lengths) - lengths
        self._playable = lengths - parameters.history_len
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
        return observe(self._state), {}

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
        return observe(self._state), rewards, np.zeros_like(truncated), truncated, {}

    def _begin(self, which: NDArray[np.bool_]) -> None:
        """Draw a segment by its length and a window within it, for each fleet in `which`."""
        indices = np.flatnonzero(which)
        segment = self.np_random.choice(len(self._chance), size=len(indices), p=self._chance)
        length = self._episode[segment]
        skip = self.np_random.integers(0, self._playable[segment] - length, endpoint=True)
        history = self.parameters.history_len
        first = self._starts[segment] + history + skip
        self._cursor[indices] = first
        self._end[indices] = first + length
        before = self._demand[first[:, np.newaxis] + np.arange(-history, 0)]
        self._state.demands[indices] = before
        self._state.targets[indices] = before


def observation_space(parameters: FleetParameters) -> gym.spaces.Box:
    """Observations of a fleet: servers, within its limits, shape ``(2 * history_len,)``."""
    size = 2 * parameters.history_len
    return gym.spaces.Box(parameters.min_servers, parameters.max_servers, (size,), np.float64)


def action_space(parameters: FleetParameters) -> gym.spaces.Box:
    """Actions of a fleet, shape ``(1,)``; see `highest_action`."""
    return gym.spaces.Box(0.0, highest_action(parameters), (1,), np.float32)


def highest_action(parameters: FleetParameters) -> float:
    """The notebook's 1.0, or what it takes to ask for `max_servers` where that is more."""
    return max(1.0, parameters.max_servers / parameters.action_factor)


def make_replay(config: Mapping[str, Any]) -> ReplayVectorEnv:
    """RLlib's way to make the environment, from an `env_config` with the constructor's names."""
    return ReplayVectorEnv(
        segments=config["segments"],
        parameters=config["parameters"],
        num_envs=config["num_envs"],
        reward_scale=config["reward_scale"],
    )
