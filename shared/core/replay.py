"""Replay policies against recorded demand: learn on the first part, score the rest.

Row k of an array of *decisions* was made after row k of demand was seen. It is the target of
step k + 1, the allocation of step k + `lead_steps`, and meets the demand of that step. Samples
are made over the whole series, so that at the first scored step every server that is starting was
asked for by the policy itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.core.adaptation import FRESH, ONE_EXPERT, adapted_actions, answered, average
from shared.core.arrays import FloatArray, IntArray
from shared.core.dynamics import target_of
from shared.core.evaluation import Score, score
from shared.core.fields import notebook_fields
from shared.core.history import History
from shared.core.observation import Encoder
from shared.core.parameters import FleetParameters

GROWTH = 3.0
"""`max_servers` in training peaks, so that a game may grow beyond what was learnt from."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a policy asked for and had at every step, in servers; shape ``(steps,)``."""

    targets: FloatArray
    allocations: FloatArray


class BatchPolicy(Protocol):
    """A policy over many observations at once: nets, a rule, a mixture of both, an artefact."""

    @property
    def fields(self) -> tuple[str, ...]:
        """What it sees, by name; see `shared.core.observation`."""
        ...

    @property
    def lead_steps(self) -> int:
        """Steps from the newest demand to the one that it plans for; the fleet's, or fewer."""
        ...

    @property
    def experts(self) -> Mapping[str, float]:
        """Its experts, and what each counts for before outcomes are known; empty: it is one."""
        ...

    @property
    def reads_targets(self) -> bool:
        """Whether an action depends on the targets asked for before, so on the actions before."""
        ...

    def actions(self, observations: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Each expert's action, ``(rows, experts)``, for observations ``(rows, fields)``.

        Observations are in servers, NaN where history does not reach; an action of 1.0 is
        `action_factor` servers.
        """
        ...


def prior_of(policy: BatchPolicy) -> tuple[float, ...]:
    """What each of a policy's experts counts for before outcomes are known; the sum is 1."""
    return tuple(policy.experts.values()) or ONE_EXPERT


def observations_after(
    history: History,
    fields: tuple[str, ...],
    parameters: FleetParameters,
    rows: IntArray,
    lead_steps: int | None = None,
) -> FloatArray:
    """What is seen after each row, NaN for targets, shape ``(len(rows), len(fields))``.

    Before row 0 demand was `min_servers`, as for a live fleet's first observation. `lead_steps` are
    those that are planned for, the fleet's unless given.
    """
    encoder = Encoder(fields, lead_steps or parameters.lead_steps)
    no_targets = np.full((len(rows), parameters.history_len), np.nan)
    return encoder.observations(_encoded(encoder, history, parameters, rows), no_targets)


def decide(
    policy: BatchPolicy,
    history: History,
    parameters: FleetParameters,
    rows: IntArray | None = None,
    since: int = 0,
) -> FloatArray:
    """A policy's decisions, in servers, after each of `rows` (ascending; all unless given).

    It sees all of the history before a row, may be made for a shorter lead time, and adapts to what
    it meets from row `since` on (`shared.core.adaptation`). One that reads targets is stepped from
    the first of `rows`, before which the targets were `min_servers`; any other is asked at once.
    """
    rows = np.arange(len(history.demands)) if rows is None else rows
    if not len(rows):
        return np.empty(0)
    if policy.reads_targets:
        first = int(rows[0])
        stepped = _stepped(policy, history, parameters, first, int(rows[-1]) + 1, since)
        return stepped[rows - first]
    seen = observations_after(history, policy.fields, parameters, rows, policy.lead_steps)
    answers = policy.actions(seen).astype(np.float64)
    demands = np.clip(history.demands, parameters.min_servers, parameters.max_servers)
    actions = adapted_actions(answers, demands, rows, prior_of(policy), parameters, since)
    return target_of(actions, parameters)


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


def _encoded(
    encoder: Encoder, history: History, parameters: FleetParameters, rows: IntArray
) -> FloatArray:
    """The encoder's fields of demand within the fleet's limits."""
    low, high = parameters.min_servers, parameters.max_servers
    clipped = History(history.times, np.clip(history.demands, low, high), history.step_seconds)
    seen = encoder.encode(clipped, rows)
    lags = [field in notebook_fields(parameters.history_len) for field in encoder.fields]
    seen[:, lags] = np.nan_to_num(seen[:, lags], nan=low)
    return seen


def _stepped(
    policy: BatchPolicy,
    history: History,
    parameters: FleetParameters,
    first: int,
    stop: int,
    since: int,
) -> FloatArray:
    """Samples after each row from `first` up to `stop`, one after the other."""
    low, high = parameters.min_servers, parameters.max_servers
    encoder = Encoder(policy.fields, policy.lead_steps)
    rows, prior, size = np.arange(first, stop), prior_of(policy), parameters.history_len
    seen = _encoded(encoder, history, parameters, rows)
    demands = np.clip(history.demands, low, high).tolist()
    asked = np.full(size + 1 + len(rows), low)  # asked[size] is the target of the first row's step
    state = FRESH
    for number, row in enumerate(rows.tolist()):
        targets = asked[np.newaxis, number + 1 : number + 1 + size]
        observation = encoder.observations(seen[number : number + 1], targets)
        answers = policy.actions(observation)[0].tolist()
        action = average(answers, prior)
        if row >= since:
            state, action = answered(state, demands[row], answers, prior, parameters)
        asked[size + 1 + number] = target_of(action, parameters)
    return asked[size + 1 :]
