"""Recorded demand as a simulator: what was recorded, and a vectorised environment over it.

Demand is exogenous (what we allocate does not change what players do), so a recorded series can
be replayed against any policy.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from shared.core.dynamics import FleetState, step
from shared.core.observation import Encoder, History, IntArray
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.errors import BadInput
from shared.messages import RecordedStep

FloatArray = NDArray[np.float64]


class TooLittleHistory(BadInput):
    """A fleet has not recorded enough usable demand to learn from; more steps will mend it."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Demand as it was recorded, and where it has gaps.

    Fields that count rows and the calendar look across a gap, as the live worker does; what a
    decision meets does not.
    """

    history: History
    starts: IntArray
    """Rows that begin an unbroken run, ascending; the first is 0."""

    @classmethod
    def unbroken(cls, history: History) -> "Recorded":
        """Every row follows the one before, such as in a trace."""
        return cls(history, np.zeros(1, dtype=np.int64))

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First row and end of each unbroken run."""
        edges = [*self.starts.tolist(), len(self.history.demands)]
        return list(itertools.pairwise(edges))

    def until(self, row: int) -> "Recorded":
        """The rows before `row`."""
        history = self.history
        kept = History(history.times[:row], history.demands[:row], history.step_seconds)
        return Recorded(kept, self.starts[self.starts < row])


def recorded_of(steps: Sequence[RecordedStep], step_seconds: float) -> Recorded:
    """Usable demand, oldest first: a run breaks at held demand and at gaps.

    Where the clock was set back, what was recorded before it and has a later time is left out.
    """
    usable: list[RecordedStep] = []
    starts: list[int] = []
    broken = True
    for recorded in steps:
        broken = broken or recorded.gap_steps > 0 or not recorded.usable
        if recorded.usable:
            while usable and usable[-1].at >= recorded.at:
                usable.pop()
                broken = True
            while starts and starts[-1] >= len(usable):
                starts.pop()
            if broken:
                starts.append(len(usable))
            usable.append(recorded)
            broken = False
    times = np.array([recorded.at for recorded in usable], dtype=np.float64)
    demands = np.array([recorded.demand for recorded in usable], dtype=np.float64)
    return Recorded(History(times, demands, step_seconds), np.array(starts, dtype=np.int64))


def shortest_run(parameters: FleetParameters) -> int:
    """Rows that a run needs: a history, and a decision that meets its demand."""
    return parameters.history_len + parameters.lead_steps


def decision_rows(recorded: Recorded, parameters: FleetParameters) -> IntArray:
    """Rows after which a decision has a history behind it and meets known demand, in one run."""
    before, lead = parameters.history_len - 1, parameters.lead_steps
    found = [np.arange(first + before, end - lead) for first, end in recorded.runs]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def replayable(recorded: Recorded, parameters: FleetParameters) -> Recorded:
    """The recorded demand, clipped to the fleet's limits.

    Raises `TooLittleHistory` when no run is long enough for a decision.
    """
    if not len(decision_rows(recorded, parameters)):
        longest = max((end - first for first, end in recorded.runs), default=0)
        raise TooLittleHistory(
            f"the longest unbroken run of recorded demand has {longest} steps and learning needs "
            f"{shortest_run(parameters)}: let the fleet run on, and see that its demand arrives "
            "at every step"
        )
    history = recorded.history
    demands = np.clip(history.demands, parameters.min_servers, parameters.max_servers)
    return Recorded(History(history.times, demands, history.step_seconds), recorded.starts)


def hold_out(
    recorded: Recorded, fraction: float, parameters: FleetParameters
) -> tuple[Recorded, IntArray]:
    """Keep out the last `fraction` of the rows: ``(to learn from, held-out decision rows)``.

    A held-out decision may look back at what was learnt from; what it meets is held out. Nothing
    is, if too little would be left to learn from.
    """
    rows = len(recorded.history.demands)
    cut = rows - int(fraction * rows)
    learnt = recorded.until(cut)
    if not len(decision_rows(learnt, parameters)):
        return recorded, np.empty(0, dtype=np.int64)
    decisions = decision_rows(recorded, parameters)
    return learnt, decisions[decisions >= cut - 1]


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


def observation_space(parameters: FleetParameters) -> gym.spaces.Box:
    """Observations of a fleet, shape ``(fields,)``; the notebook's are within its limits."""
    size = len(parameters.observation_fields)
    if parameters.observation == "calendar":
        return gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
    return gym.spaces.Box(parameters.min_servers, parameters.max_servers, (size,), np.float64)


def action_space(parameters: FleetParameters) -> gym.spaces.Box:
    """Actions of a fleet, shape ``(1,)``."""
    return gym.spaces.Box(0.0, parameters.highest_action, (1,), np.float32)


def make_replay(config: Mapping[str, Any]) -> ReplayVectorEnv:
    """RLlib's way to make the environment, from an `env_config` with the constructor's names."""
    return ReplayVectorEnv(
        recorded=config["recorded"],
        parameters=config["parameters"],
        num_envs=config["num_envs"],
        reward_scale=config["reward_scale"],
    )
