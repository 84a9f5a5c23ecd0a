"""How good a policy is on demand that it has not learnt from, beside the plain rule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.trainer.module import ResidualModule
from shared.core.backtest import FloatArray, observations_after
from shared.core.baselines import trend
from shared.core.dynamics import target_of
from shared.core.observation import History, IntArray
from shared.core.parameters import FleetParameters
from shared.core.rewards import reward_of
from shared.core.scoring import score


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a policy did on held-out demand; servers per step."""

    steps: int
    reward: float
    """Mean reward per step, by the fleet's own reward."""
    cost: float
    """Mean cost per step, by the one scoring function."""


def evaluate(
    targets: FloatArray, history: History, parameters: FleetParameters, rows: IntArray
) -> HeldOut | None:
    """Score targets chosen after `rows` on the demand that they meet; None without any."""
    if not len(rows):
        return None
    low, high = parameters.min_servers, parameters.max_servers
    met = np.clip(history.demands[rows + parameters.lead_steps], low, high)
    scored = score(targets, met, parameters.over_prov_factor)
    reward = float(reward_of(targets, met, parameters).mean())
    return HeldOut(steps=scored.steps, reward=reward, cost=scored.cost_per_step)


def evaluate_rule(history: History, parameters: FleetParameters, rows: IntArray) -> HeldOut | None:
    """The plain rule on the same decisions."""
    window = rows[:, np.newaxis] + np.arange(1 - parameters.history_len, 1)
    return evaluate(trend(history.demands[window], parameters), history, parameters, rows)


class BestSoFar:
    """Keeps the weights that did best on held-out demand: early stopping, by mean reward.

    Further learning on a little history goes on to fit its noise. Without held-out decisions the
    newest weights count as the best.
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

    def consider(self, module: ResidualModule) -> HeldOut | None:
        """Evaluate a module as it is now, and keep its weights if they are the best."""
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
        """Nothing was considered yet."""
        return self._state is None

    @property
    def state(self) -> Mapping[str, Any]:
        """The best weights."""
        assert self._state is not None, "consider() comes before the best"
        return self._state
