"""Replay decisions against recorded demand: learn on the first part, score the rest.

Row k of an array of *decisions* was chosen after row k of demand was seen. It is the target of
step k + 1, the allocation of step k + `lead_steps`, and meets the demand of that step. Decisions
are made over the whole series, so that at the first scored step every server that is starting was
asked for by the policy itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.core.adaptation import FRESH, answered, average
from shared.core.dynamics import target_of
from shared.core.observation import Encoder, History, notebook_fields
from shared.core.parameters import FleetParameters
from shared.core.scoring import Score, score

FloatArray = NDArray[np.float64]
GROWTH = 3.0
"""`max_servers` in training peaks, so that a game may grow beyond what was learnt from."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a policy asked for and had at every step, in servers; shape ``(steps,)``."""

    targets: FloatArray
    allocations: FloatArray


def part(history: History, start: int, stop: int) -> History:
    """Rows of a history."""
    return History(history.times[start:stop], history.demands[start:stop], history.step_seconds)


class Answering(Protocol):
    """A policy: an observation in servers, shape ``(fields,)``, to its experts' actions."""

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def lead_steps(self) -> int: ...

    @property
    def prior(self) -> tuple[float, ...]: ...

    def answers(self, observation: FloatArray) -> Sequence[float]: ...


def decide(
    policy: Answering,
    history: History,
    parameters: FleetParameters,
    first: int = 0,
    stop: int | None = None,
    since: int = 0,
) -> FloatArray:
    """A policy's decisions, in servers, after each row from `first` up to `stop`.

    The policy sees all of the history before a row, and the targets that it asked for since
    `first`; before that they were `min_servers`, and so were the last demands before row 0. It
    adapts to what it meets from row `since` on (`shared.core.adaptation`). It may be made for a
    shorter lead time than the fleet's.
    """
    rows = np.arange(first, len(history.demands) if stop is None else stop)
    encoder = Encoder(policy.fields, policy.lead_steps)
    low, high = parameters.min_servers, parameters.max_servers
    clipped = History(history.times, np.clip(history.demands, low, high), history.step_seconds)
    seen = encoder.encode(clipped, rows)
    lags = [field in notebook_fields(parameters.history_len) for field in encoder.fields]
    seen[:, lags] = np.nan_to_num(seen[:, lags], nan=low)
    size = parameters.history_len
    asked = np.full(size + 1 + len(rows), low)  # asked[size] is the target of the first row's step
    state = FRESH
    for number, row in enumerate(rows.tolist()):
        targets = asked[np.newaxis, number + 1 : number + 1 + size]
        observation = encoder.observations(seen[number : number + 1], targets)[0]
        answers = policy.answers(observation)
        action = average(answers, policy.prior)
        if row >= since:
            demand = float(clipped.demands[row])
            state, action = answered(state, demand, answers, policy.prior, parameters)
        asked[size + 1 + number] = target_of(action, parameters)
    return asked[size + 1 :]


def replay(decisions: FloatArray, parameters: FleetParameters) -> Replay:
    """Targets and allocations of every step, from the decision after each row."""
    clipped = np.clip(decisions, parameters.min_servers, parameters.max_servers)
    targets = later(clipped, 1, parameters.min_servers)
    return Replay(targets, later(targets, parameters.history_len, parameters.min_servers))


def score_after(
    decisions: FloatArray, demands: FloatArray, start: int, parameters: FleetParameters
) -> Score:
    """The score of the steps from `start` on."""
    allocations = replay(decisions, parameters).allocations
    return score(allocations[start:], demands[start:], parameters.over_prov_factor)


def limits_of(training: FloatArray) -> tuple[int, int, int]:
    """``(min_servers, max_servers, action_factor)`` for demand in servers, from that alone."""
    peak = max(math.ceil(float(training.max())), 1)
    return 0, math.ceil(GROWTH * peak), peak


def later(values: FloatArray, steps: int, before: float) -> FloatArray:
    """Values so many steps later; `before` is what was before the first."""
    return np.concatenate((np.full(steps, before), values))[: len(values)]
