"""A policy goes on learning while it serves: from what its own answers turned out to meet.

What was learnt from the past holds until the game changes. Two things follow that, step by step,
each from outcomes that are known by then:

- A policy may have several experts, which answer side by side (its nets, and a plain rule). Their
  answers are averaged by weights that move from the policy's prior towards whoever has done
  better of late: the exponentiated gradient of the cost (Kivinen and Warmuth, 1997; for experts
  whose outcomes are late, Joulani et al., 2013).
- A margin is added, so that demand is missed as often as its price says it should be: in one of
  ``1 + over_prov_factor`` steps. It rises after a miss and falls after none (adaptive conformal
  inference, Gibbs and Candes, 2021).

Numbers are actions: 1.0 means `action_factor` servers. The constants did best on pieces of the
training parts of real traces.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters

PACE = 0.05
"""How fast the weights move."""
MEMORY = 0.999
"""Part of what the experts are remembered by that is left a step later: a thousand steps count."""
MARGIN_PACE = 0.01
"""How fast the margin moves, in usual misses."""
LEAST_MARGIN, MOST_MARGIN = -1.0, 3.0
"""In usual misses."""
ERROR_STEPS = 200
"""Over which the usual miss is averaged."""
SMALLEST_ERROR = 1e-5
"""Least usual miss, as an action."""

Answers = tuple[float, ...]
ONE_EXPERT: Answers = (1.0,)
"""The prior of a policy with a single answer."""


class Adaptation(NamedTuple):
    """What a fleet has learnt of its policy since it serves; `FRESH` when it begins."""

    losses: Answers = ()
    """Of each expert, in usual misses; less is better. Empty before the first outcome."""
    margin: float = 0.0
    """In usual misses."""
    mean_error: float = 0.0
    """How far demand usually is from the average of the answers."""
    outcomes: int = 0
    """Seen so far."""
    pending: tuple[Answers, ...] = ()
    """Given after the newest rows, `lead_steps` at most, oldest first; empty: none was given."""


FRESH = Adaptation()


def average(answers: Sequence[float], weighted: Sequence[float]) -> float:
    """Of the experts' actions."""
    return sum(weight * answer for weight, answer in zip(weighted, answers, strict=True))


def weights(state: Adaptation, prior: Sequence[float]) -> Answers:
    """What each expert's answer counts for; they sum to 1."""
    if not state.losses:
        return tuple(prior)
    least = min(state.losses)
    raw = [
        start * math.exp(-PACE * (loss - least))
        for start, loss in zip(prior, state.losses, strict=True)
    ]
    total = sum(raw)
    return tuple(part / total for part in raw)


def answered(
    state: Adaptation,
    demand: float,
    answers: Sequence[float],
    prior: Sequence[float],
    parameters: FleetParameters,
) -> tuple[Adaptation, float]:
    """A row: the demand that was seen, and what the experts answered after it.

    What is known then, and the action to take, which is not clipped. `demand` is in servers, and
    within the fleet's limits. With the notebook's reward, for which too many servers are never
    enough, the prior and no margin hold.
    """
    if parameters.reward != "asymmetric":
        return FRESH, average(answers, prior)
    known = state
    if len(state.pending) == parameters.lead_steps and state.pending[0]:
        known = _after(state, demand / parameters.action_factor, prior, parameters)
    action = average(answers, weights(known, prior)) + known.margin * known.mean_error
    return _with_pending(known, tuple(answers), parameters), action


def unanswered(state: Adaptation, parameters: FleetParameters) -> Adaptation:
    """A row whose demand is not known and after which nobody was asked."""
    return _with_pending(state, (), parameters)


def rescaled(state: Adaptation, scale: float) -> Adaptation:
    """The same where an action that was 1.0 is `scale` now."""
    pending = tuple(tuple(scale * one for one in answers) for answers in state.pending)
    return state._replace(mean_error=scale * state.mean_error, pending=pending)


def adapted_actions(
    answers: FloatArray,
    demands: FloatArray,
    rows: NDArray[np.int64],
    prior: Sequence[float],
    parameters: FleetParameters,
    since: int = 0,
) -> FloatArray:
    """The actions after `rows`, ascending, for answers ``(len(rows), experts)``; not clipped.

    `demands` are all rows', in servers and within the limits. The policy serves from row `since`
    on; before it the prior holds. Where rows are missing, what waits there is forgotten.
    """
    taken = answers @ np.asarray(prior, dtype=np.float64)
    state, before = FRESH, -1
    seen = zip(rows.tolist(), demands[rows].tolist(), answers.tolist(), strict=True)
    for at, (row, demand, given) in enumerate(seen):
        if row < since:
            continue
        if row != before + 1:
            state = state._replace(pending=())
        state, taken[at] = answered(state, demand, given, prior, parameters)
        before = row
    return taken


def _after(
    state: Adaptation, met: float, prior: Sequence[float], parameters: FleetParameters
) -> Adaptation:
    """An outcome: `met` is what the oldest answers that wait should have been."""
    low = parameters.min_servers / parameters.action_factor
    high = parameters.max_servers / parameters.action_factor
    answers = [min(max(answer, low), high) for answer in state.pending[0]]
    told = average(answers, weights(state, prior))
    missed = met - told
    outcomes = state.outcomes + 1
    usual = state.mean_error + (abs(missed) - state.mean_error) / min(outcomes, ERROR_STEPS)
    usual = max(usual, SMALLEST_ERROR)
    price = parameters.over_prov_factor
    short = missed > state.margin * usual
    slope = (-price if short else 1.0) / (1 + price)
    losses = state.losses or (0.0,) * len(answers)
    margin = state.margin - MARGIN_PACE * slope
    return state._replace(
        losses=tuple(
            MEMORY * loss + slope * (answer - told) / usual
            for loss, answer in zip(losses, answers, strict=True)
        ),
        margin=min(max(margin, LEAST_MARGIN), MOST_MARGIN),
        mean_error=usual,
        outcomes=outcomes,
    )


def _with_pending(state: Adaptation, answers: Answers, parameters: FleetParameters) -> Adaptation:
    return state._replace(pending=(*state.pending, answers)[-parameters.lead_steps :])
