"""The progress of training, its early stopping, and the time that each stage took."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.core.arrays import IntArray
from shared.core.dynamics import target_of
from shared.core.evaluation import HeldOut, evaluate
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import observations_after

if TYPE_CHECKING:  # it would load RLlib, which not all training needs
    from shared.learning.models.network import ResidualModule

PROGRESS_SECONDS = 3.0
"""Least time between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A report of progress: rewards and costs in servers per step."""

    seconds: float
    environment_steps: int
    mean_reward: float | None
    held_out_cost: float | None


class Stages:
    """Measures the seconds of each stage of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    @property
    def since_start(self) -> float:
        return time.monotonic() - self._began

    @property
    def since_last(self) -> float:
        """Seconds of the present stage so far."""
        return time.monotonic() - self._last

    def done(self, stage: str) -> None:
        """End the present stage, under this name, and begin the next."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now

    def include(self, others: dict[str, float]) -> None:
        """Add stages that were timed elsewhere, and begin the next stage now."""
        self.seconds |= others
        self._last = time.monotonic()


class BestSoFar:
    """Early stopping: keeps the weights with the best mean reward on held-out demand.

    Training on a short history goes on to fit its noise. Without held-out decisions the newest
    weights count as the best.
    """

    def __init__(self, history: History, parameters: FleetParameters, rows: IntArray) -> None:
        self._history = history
        self._parameters = parameters
        self._rows = rows
        self._observations = observations_after(
            history, parameters.observation_fields, parameters, rows
        ).astype(np.float32)
        self._state: Mapping[str, Any] | None = None
        self.held_out: HeldOut | None = None
        """Of the best weights."""

    def consider(self, module: "ResidualModule") -> HeldOut | None:
        """Evaluate a module's present weights, and keep a copy if they are the best so far."""
        targets = target_of(module.actions(self._observations)[:, 0], self._parameters)
        held_out = evaluate(targets, self._history, self._parameters, self._rows)
        if (
            held_out is None
            or self.held_out is None
            or held_out.reward > self.held_out.reward
            or not np.isfinite(self.held_out.reward)
        ):
            self.held_out = held_out
            self._state = {name: value.copy() for name, value in module.get_state().items()}
        return held_out

    @property
    def empty(self) -> bool:
        """Whether nothing was considered yet."""
        return self._state is None

    @property
    def state(self) -> Mapping[str, Any]:
        """The best weights."""
        assert self._state is not None, "consider() comes before the best"
        return self._state


class Watch:
    """Evaluates the policy during training: keeps the best weights, reports progress."""

    def __init__(self, best: BestSoFar, on_progress: Callable[[Progress], None]) -> None:
        self.best = best
        self.environment_steps = 0
        self.mean_reward: float | None = None
        self._tell = on_progress
        self._began = self._told = time.monotonic()

    def read(self, result: dict[str, Any]) -> None:
        """Take the figures of a training iteration of RLlib."""
        figures = result["env_runners"]
        self.environment_steps = int(figures["num_env_steps_sampled_lifetime"])
        # Missing until the first episode has ended, NaN when none has ended in this iteration.
        mean = figures.get("episode_return_mean", np.nan) / figures.get("episode_len_mean", np.nan)
        if np.isfinite(mean):
            self.mean_reward = float(mean)

    def look(self, module: "ResidualModule") -> None:
        """Consider a module's weights for the best, and report progress."""
        held_out = self.best.consider(module)
        self.tell(held_out.cost if held_out is not None else None)

    def tell(self, held_out_cost: float | None = None) -> None:
        """Report progress, at most every `PROGRESS_SECONDS`."""
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        self._tell(
            Progress(
                seconds=round(now - self._began, 3),
                environment_steps=self.environment_steps,
                mean_reward=self.mean_reward,
                held_out_cost=held_out_cost,
            )
        )
