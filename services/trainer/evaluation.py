"""How good a policy is on demand that it has not learnt from, beside the plain rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.module import ResidualModule
from services.trainer.replay import Segment
from shared.core.baselines import trend
from shared.core.dynamics import FleetState, observe, step
from shared.core.parameters import FleetParameters
from shared.core.rewards import reward_of
from shared.core.scoring import score

FloatArray = NDArray[np.float64]
Decide = Callable[[FloatArray], float]
"""A policy as a function: observation ``(2 * history_len,)`` in servers to an action."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a policy did on held-out demand; servers per step."""

    steps: int
    reward: float
    """Mean reward per step, by the fleet's own reward."""
    cost: float
    """Mean cost per step, by the one scoring function."""


def evaluate(
    decide: Decide, segments: Sequence[Segment], parameters: FleetParameters
) -> HeldOut | None:
    """Replay a policy over held-out segments, one step after the other; None without any.

    A segment's first `history_len` demands are what the first decision looks back at. The
    `history_len` steps after them meet targets that the policy has not asked for, so they are
    played and not scored.
    """
    allocations: list[float] = []
    demands: list[float] = []
    history = parameters.history_len
    for segment in segments:
        state = FleetState(demands=segment[:history], targets=segment[:history])
        for played, demand in enumerate(segment[history:]):
            outcome = step(state, decide(observe(state)), demand, parameters)
            state = outcome.state
            if played >= history:
                allocations.append(float(outcome.allocation))
                demands.append(float(outcome.demand))
    if not demands:
        return None
    scored = score(allocations, demands, parameters.over_prov_factor)
    rewards = reward_of(allocations, demands, parameters)
    return HeldOut(steps=scored.steps, reward=float(rewards.mean()), cost=scored.cost_per_step)


def evaluate_rule(segments: Sequence[Segment], parameters: FleetParameters) -> HeldOut | None:
    """The plain rule on the same segments."""

    def decide(observation: FloatArray) -> float:
        target = trend(observation[: parameters.history_len], parameters)
        return float(target) / parameters.action_factor

    return evaluate(decide, segments, parameters)


class BestSoFar:
    """Keeps the weights that did best on held-out demand: early stopping, by mean reward.

    Further learning on a little history goes on to fit its noise. Without held-out segments the
    newest weights count as the best.
    """

    def __init__(self, segments: Sequence[Segment], parameters: FleetParameters) -> None:
        self._segments = segments
        self._parameters = parameters
        self._state: Mapping[str, Any] | None = None
        self.held_out: HeldOut | None = None
        """Of the best weights."""

    def consider(self, module: ResidualModule) -> HeldOut | None:
        """Evaluate a module as it is now, and keep its weights if they are the best."""

        def decide(observation: FloatArray) -> float:
            return float(module.decide(observation[np.newaxis])[0, 0])

        held_out = evaluate(decide, self._segments, self._parameters)
        if (
            held_out is None
            or self.held_out is None
            or held_out.reward > self.held_out.reward
            or not np.isfinite(self.held_out.reward)
        ):
            self.held_out = held_out
            self._state = {name: value.copy() for name, value in module.get_state().items()}
        return held_out

    def restore(self, module: ResidualModule) -> None:
        """Put the best weights into a module."""
        assert self._state is not None, "consider() comes before restore()"
        module.set_state(self._state)
