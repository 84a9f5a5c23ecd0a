"""Replay policies against recorded demand: train on the first part, score the rest.

Row k of an array of *decisions* is decided after row k of demand was observed. It is the target of
step k + 1, the allocation of step k + `lead_steps`, and meets the demand of that step. Decisions
are made over the whole series, so that at the first scored step every server that is starting was
requested by the policy itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.core.adaptation import FRESH, ONE_EXPERT, adapt, adapted_actions, average
from shared.core.arrays import FloatArray, IntArray
from shared.core.dynamics import target_of
from shared.core.evaluation import Score, score
from shared.core.fields import notebook_fields
from shared.core.history import History, within_limits
from shared.core.observation import Encoder
from shared.core.parameters import FleetParameters

GROWTH = 3.0
"""`max_servers`, in peaks of the training demand: a game may grow beyond its recorded demand."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A policy's targets and allocations at every step, in servers; shape ``(steps,)``."""

    targets: FloatArray
    allocations: FloatArray


class BatchPolicy(Protocol):
    """A policy over a batch of observations: nets, a rule, a mixture of both, or an artefact."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its observation's fields; see `shared.core.fields`."""
        ...

    @property
    def lead_steps(self) -> int:
        """Steps from the newest demand to the one that it plans for; the fleet's, or fewer."""
        ...

    @property
    def experts(self) -> Mapping[str, float]:
        """Its experts and their prior weights, which sum to 1; empty: it is a single expert."""
        ...

    @property
    def reads_targets(self) -> bool:
        """Whether an action depends on earlier targets, and so on the policy's earlier actions."""
        ...

    def actions(self, observations: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Each expert's action, ``(rows, experts)``, for observations ``(rows, fields)``.

        Observations are in servers, NaN where history is too short; an action of 1.0 is
        `action_factor` servers.
        """
        ...


def prior_of(policy: BatchPolicy) -> tuple[float, ...]:
    """The prior weights of a policy's experts, before any outcome is known; they sum to 1."""
    return tuple(policy.experts.values()) or ONE_EXPERT


def observations_after(
    history: History,
    fields: tuple[str, ...],
    parameters: FleetParameters,
    rows: IntArray,
    lead_steps: int | None = None,
) -> FloatArray:
    """The observation after each row, NaN for targets, shape ``(len(rows), len(fields))``.

    Before row 0 demand was `min_servers`, as for a live fleet's first observation. `lead_steps` is
    the policy's lead time, the fleet's unless given.
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

    It observes the whole history before a row, may be made for a shorter lead time, and adapts to
    outcomes from row `since` on (`shared.core.adaptation`). A policy that reads targets is stepped
    from the first of `rows`, before which targets were `min_servers`; any other is evaluated in one
    batch. Returns shape ``(len(rows),)``.
    """
    rows = np.arange(len(history.demands)) if rows is None else rows
    if not len(rows):
        return np.empty(0)
    if policy.reads_targets:
        first = int(rows[0])
        stepped = _stepped(policy, history, parameters, first, int(rows[-1]) + 1, since)
        return stepped[rows - first]
    seen = observations_after(history, policy.fields, parameters, rows, policy.lead_steps)
    of_experts = policy.actions(seen).astype(np.float64)
    demands = parameters.within_limits(history.demands)
    actions = adapted_actions(of_experts, demands, rows, prior_of(policy), parameters, since)
    return target_of(actions, parameters)


def replay(decisions: FloatArray, parameters: FleetParameters) -> Replay:
    """Targets and allocations of every step, from the decision after each row."""
    clipped = parameters.within_limits(decisions)
    targets = later(clipped, 1, parameters.min_servers)
    return Replay(targets, later(targets, parameters.history_len, parameters.min_servers))


def score_after(
    decisions: FloatArray, demands: FloatArray, start: int, parameters: FleetParameters
) -> Score:
    """The score of the steps from `start` on."""
    allocations = replay(decisions, parameters).allocations
    return score(allocations[start:], demands[start:], parameters.over_prov_factor)


def limits_of(training: FloatArray) -> tuple[int, int, int]:
    """``(min_servers, max_servers, action_factor)`` for training demand, in servers."""
    peak = max(math.ceil(float(training.max())), 1)
    return 0, math.ceil(GROWTH * peak), peak


def later(values: FloatArray, steps: int, before: float) -> FloatArray:
    """The values shifted by `steps`, with `before` in the first `steps` places."""
    return np.concatenate((np.full(steps, before), values))[: len(values)]


def _encoded(
    encoder: Encoder, history: History, parameters: FleetParameters, rows: IntArray
) -> FloatArray:
    """The encoder's fields of demand within the fleet's limits."""
    seen = encoder.encode(within_limits(history, parameters), rows)
    lags = [field in notebook_fields(parameters.history_len) for field in encoder.fields]
    seen[:, lags] = np.nan_to_num(seen[:, lags], nan=parameters.min_servers)
    return seen


def _stepped(
    policy: BatchPolicy,
    history: History,
    parameters: FleetParameters,
    first: int,
    stop: int,
    since: int,
) -> FloatArray:
    """Decisions after each row from `first` up to `stop`, one after the other."""
    encoder = Encoder(policy.fields, policy.lead_steps)
    rows, prior, size = np.arange(first, stop), prior_of(policy), parameters.history_len
    seen = _encoded(encoder, history, parameters, rows)
    demands = parameters.within_limits(history.demands).tolist()
    requested = np.full(
        size + 1 + len(rows), parameters.min_servers
    )  # [size] is the target of the first row's step
    state = FRESH
    for number, row in enumerate(rows.tolist()):
        targets = requested[np.newaxis, number + 1 : number + 1 + size]
        observation = encoder.observations(seen[number : number + 1], targets)
        of_experts = policy.actions(observation)[0].tolist()
        action = average(of_experts, prior)
        if row >= since:
            state, action = adapt(state, demands[row], of_experts, prior, parameters)
        requested[size + 1 + number] = target_of(action, parameters)
    return requested[size + 1 :]
