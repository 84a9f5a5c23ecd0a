"""Online adaptation: a policy that serves goes on learning from the outcomes of its own actions.

A policy is trained on past demand, and demand changes. Two things are adapted at every step, from
the outcomes that are known by then:

- The weights of the experts. A policy may be a mixture of several experts (its nets and a plain
  rule). Its action is the weighted mean of theirs; the weights start at the policy's prior and
  move towards the experts with the lower recent cost, by exponentiated gradient (Kivinen and
  Warmuth, 1997; with delayed outcomes, Joulani et al., 2013).
- A safety margin, added to that mean, so that demand exceeds the servers in one of
  ``1 + over_prov_factor`` steps, the critical fractile. It rises after a shortage and falls
  otherwise (adaptive conformal inference, Gibbs and Candes, 2021).

All numbers are actions: 1.0 means `action_factor` servers. The constants were tuned on excerpts
of the training parts of real traces.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters

WEIGHTS_RATE = 0.05
"""Learning rate of the weights."""
DISCOUNT = 0.999
"""Per step, of the experts' past losses: about the last thousand steps count."""
MARGIN_RATE = 0.01
"""Learning rate of the margin, in mean absolute errors."""
MIN_MARGIN, MAX_MARGIN = -1.0, 3.0
"""In mean absolute errors."""
ERROR_STEPS = 200
"""Steps over which the absolute error is averaged."""
MIN_ERROR = 1e-5
"""Lower bound of the mean absolute error, as an action."""

Actions = tuple[float, ...]
"""One action of each expert, in the policy's order."""
ONE_EXPERT: Actions = (1.0,)
"""The prior of a policy that is a single expert."""


class Adaptation(NamedTuple):
    """What has been learnt about a policy since it serves a fleet; `FRESH` at its first step."""

    losses: Actions = ()
    """Discounted loss of each expert, in mean absolute errors. Empty before the first outcome."""
    margin: float = 0.0
    """In mean absolute errors."""
    mean_error: float = 0.0
    """Mean absolute error of the weighted mean of the actions."""
    outcomes: int = 0
    """Number of outcomes seen."""
    pending: tuple[Actions, ...] = ()
    """The experts' actions after the newest rows, whose outcomes are not known yet: at most
    `lead_steps`, oldest first; an empty tuple for a row without actions."""


FRESH = Adaptation()


def average(actions: Sequence[float], weighted: Sequence[float]) -> float:
    """The mean of the experts' actions under these weights."""
    return sum(weight * action for weight, action in zip(weighted, actions, strict=True))


def weights(state: Adaptation, prior: Sequence[float]) -> Actions:
    """The weight of each expert; they sum to 1."""
    if not state.losses:
        return tuple(prior)
    least = min(state.losses)
    raw = [
        start * math.exp(-WEIGHTS_RATE * (loss - least))
        for start, loss in zip(prior, state.losses, strict=True)
    ]
    total = sum(raw)
    return tuple(part / total for part in raw)


def adapt(
    state: Adaptation,
    demand: float,
    actions: Sequence[float],
    prior: Sequence[float],
    parameters: FleetParameters,
) -> tuple[Adaptation, float]:
    """Process one row: its demand, and the experts' `actions` after it.

    Returns ``(new state, action to take)``; the action is not clipped. `demand` is in servers,
    clipped to the fleet's limits. With the notebook's reward, which pays for every idle server,
    nothing is adapted: the prior holds, without a margin.
    """
    if parameters.reward != "asymmetric":
        return FRESH, average(actions, prior)
    known = state
    if len(state.pending) == parameters.lead_steps and state.pending[0]:
        known = _after(state, demand / parameters.action_factor, prior, parameters)
    action = average(actions, weights(known, prior)) + known.margin * known.mean_error
    return _with_pending(known, tuple(actions), parameters), action


def skip_row(state: Adaptation, parameters: FleetParameters) -> Adaptation:
    """Process a row without known demand, after which the experts were not evaluated."""
    return _with_pending(state, (), parameters)


def rescaled(state: Adaptation, scale: float) -> Adaptation:
    """The same state after `action_factor` has changed: an action of 1.0 has become `scale`."""
    pending = tuple(tuple(scale * action for action in actions) for actions in state.pending)
    return state._replace(mean_error=scale * state.mean_error, pending=pending)


def adapted_actions(
    actions: FloatArray,
    demands: FloatArray,
    rows: NDArray[np.int64],
    prior: Sequence[float],
    parameters: FleetParameters,
    since: int = 0,
) -> FloatArray:
    """Adapted actions after `rows`, from the experts' `actions`, ``(len(rows), experts)``.

    Returns shape ``(len(rows),)``, not clipped. `rows` ascend; `demands` holds every row's, in
    servers, clipped to the limits. Adaptation starts at row `since`; before it the prior holds.
    Outcomes that are pending where rows are missing are dropped.
    """
    taken = actions @ np.asarray(prior, dtype=np.float64)
    state, before = FRESH, -1
    seen = zip(rows.tolist(), demands[rows].tolist(), actions.tolist(), strict=True)
    for at, (row, demand, of_experts) in enumerate(seen):
        if row < since:
            continue
        if row != before + 1:
            state = state._replace(pending=())
        state, taken[at] = adapt(state, demand, of_experts, prior, parameters)
        before = row
    return taken


def _after(
    state: Adaptation, met: float, prior: Sequence[float], parameters: FleetParameters
) -> Adaptation:
    """The outcome of the oldest pending actions: `met` is the demand that they met, as an action.

    `slope` is the derivative of the pinball loss, which the cost is up to a factor.
    """
    low = parameters.min_servers / parameters.action_factor
    high = parameters.max_servers / parameters.action_factor
    actions = [min(max(action, low), high) for action in state.pending[0]]
    mixed = average(actions, weights(state, prior))
    error = met - mixed
    outcomes = state.outcomes + 1
    mean_error = state.mean_error + (abs(error) - state.mean_error) / min(outcomes, ERROR_STEPS)
    mean_error = max(mean_error, MIN_ERROR)
    underage_cost = parameters.over_prov_factor
    short = error > state.margin * mean_error
    slope = (-underage_cost if short else 1.0) / (1 + underage_cost)
    losses = state.losses or (0.0,) * len(actions)
    margin = state.margin - MARGIN_RATE * slope
    return state._replace(
        losses=tuple(
            DISCOUNT * loss + slope * (action - mixed) / mean_error
            for loss, action in zip(losses, actions, strict=True)
        ),
        margin=min(max(margin, MIN_MARGIN), MAX_MARGIN),
        mean_error=mean_error,
        outcomes=outcomes,
    )


def _with_pending(state: Adaptation, actions: Actions, parameters: FleetParameters) -> Adaptation:
    return state._replace(pending=(*state.pending, actions)[-parameters.lead_steps :])
