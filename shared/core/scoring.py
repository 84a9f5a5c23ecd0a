"""The one scoring function: what a series of allocations cost against a series of demands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Score:
    """Cost of a replay; servers times steps unless it says otherwise."""

    steps: int
    cost_per_step: float
    """Idle servers plus `under_factor` times unserved servers, mean per step."""
    under_steps_pct: float
    """Steps with fewer servers than needed, in percent."""
    unserved_server_steps: float
    idle_server_steps: float


def score(allocations: ArrayLike, demands: ArrayLike, under_factor: float = 5.0) -> Score:
    """Score allocations against demands, both in servers, shape ``(steps,)``."""
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
