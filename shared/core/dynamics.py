"""How a fleet moves from one step to the next.

Every function works on one fleet (histories of shape ``(history_len,)``) and on many at once
(``(..., history_len)``): the Gymnasium class, the live worker and the trainer's replay share
them. The target of step k is the allocation of step k + history_len.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters
from shared.core.rewards import reward_of


@dataclass(frozen=True, slots=True)
class FleetState:
    """The last demands and targets, oldest first, in servers; shape ``(..., history_len)``."""

    demands: FloatArray
    targets: FloatArray


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The result of one step: the next state, and numbers in servers, shape ``(...)`` each."""

    state: FleetState
    target: FloatArray
    demand: FloatArray
    """Demand clipped to the fleet's limits."""
    allocation: FloatArray
    reward: FloatArray


def initial_state(parameters: FleetParameters, shape: tuple[int, ...] = ()) -> FleetState:
    """The state of a fleet whose targets and demands have always been `min_servers`."""
    history = np.full((*shape, parameters.history_len), parameters.min_servers, dtype=np.float64)
    return FleetState(demands=history, targets=history.copy())


def observe(state: FleetState) -> FloatArray:
    """The notebook's observation, shape ``(..., 2 * history_len)``: demands, then targets."""
    return np.concatenate((state.demands, state.targets), axis=-1)


def target_of(action: ArrayLike, parameters: FleetParameters) -> FloatArray:
    """The target of an action, in servers: ``action * action_factor``, within the limits."""
    servers = np.asarray(action, dtype=np.float64) * parameters.action_factor
    return parameters.within_limits(servers)


def step(
    state: FleetState, action: ArrayLike, demand: ArrayLike, parameters: FleetParameters
) -> StepOutcome:
    """Set a target, then meet a demand with the target of `history_len` steps ago.

    `action` and `demand` have the shape of the state without its last axis; `demand` is in
    servers and is clipped to the fleet's limits, as in the notebook.
    """
    return step_to(state, target_of(action, parameters), demand, parameters)


def step_to(
    state: FleetState, target: FloatArray, demand: ArrayLike, parameters: FleetParameters
) -> StepOutcome:
    """`step` for a target in servers, within the limits, instead of an action."""
    seen = parameters.within_limits(demand)
    allocation = state.targets[..., 0]
    return StepOutcome(
        state=FleetState(
            demands=_shift(state.demands, seen), targets=_shift(state.targets, target)
        ),
        target=target,
        demand=seen,
        allocation=allocation,
        reward=reward_of(allocation, seen, parameters),
    )


def _shift(history: FloatArray, newest: FloatArray) -> FloatArray:
    return np.concatenate((history[..., 1:], newest[..., np.newaxis]), axis=-1)
