"""The one scoring function: what allocations, or decisions, cost on recorded demand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from shared.core.arrays import FloatArray, IntArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.rewards import reward_of
from shared.core.rules import trend


@dataclass(frozen=True, slots=True)
class Score:
    """Cost of a replay; in server steps (servers times steps) unless stated otherwise."""

    steps: int
    cost_per_step: float
    """Idle servers plus `under_factor` times missing servers, mean per step."""
    under_steps_pct: float
    """Steps with fewer servers than needed, in percent."""
    unserved_server_steps: float
    idle_server_steps: float


def score(allocations: ArrayLike, demands: ArrayLike, under_factor: float = 5.0) -> Score:
    """Score allocations against demands, both in servers, shape ``(steps,)``.

    `under_factor` is the cost of one missing server for one step, in idle servers. Raises
    `ValueError` for other shapes.
    """
    alloc = np.asarray(allocations, dtype=np.float64)
    need = np.asarray(demands, dtype=np.float64)
    if alloc.shape != need.shape or alloc.ndim != 1 or not len(alloc):
        raise ValueError(f"allocations {alloc.shape} and demands {need.shape} must match, (steps,)")
    idle = np.maximum(alloc - need, 0.0)
    unserved = np.maximum(need - alloc, 0.0)
    return Score(
        steps=len(alloc),
        cost_per_step=float(np.mean(idle + under_factor * unserved)),
        under_steps_pct=float(100 * np.mean(unserved > 0)),
        unserved_server_steps=float(unserved.sum()),
        idle_server_steps=float(idle.sum()),
    )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The result of a policy on held-out demand; in servers per step."""

    steps: int
    reward: float
    """Mean reward per step, by the fleet's reward."""
    cost: float
    """Mean cost per step, by `score`."""


def evaluate(
    targets: FloatArray, history: History, parameters: FleetParameters, rows: IntArray
) -> HeldOut | None:
    """Score the targets, in servers, that were decided after `rows`, on the demand that they meet.

    None without rows.
    """
    if not len(rows):
        return None
    met = parameters.within_limits(history.demands[rows + parameters.lead_steps])
    scored = score(targets, met, parameters.over_prov_factor)
    reward = float(reward_of(targets, met, parameters).mean())
    return HeldOut(steps=scored.steps, reward=reward, cost=scored.cost_per_step)


def evaluate_rule(history: History, parameters: FleetParameters, rows: IntArray) -> HeldOut | None:
    """`evaluate` for the rule that serves without a policy, `trend`."""
    window = rows[:, np.newaxis] + np.arange(1 - parameters.history_len, 1)
    return evaluate(trend(history.demands[window], parameters), history, parameters, rows)
