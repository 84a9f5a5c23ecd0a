"""The reward of a step, from its allocation and its demand."""

import numpy as np
from numpy.typing import ArrayLike

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters

EXACT_REWARD = 1.0
"""Reward of meeting demand exactly, in both rewards."""

NOTEBOOK_UNDER_FACTOR = 5.0
"""The notebook's hard-coded underage cost, in its first reward line."""


def reward_of(allocation: ArrayLike, demand: ArrayLike, parameters: FleetParameters) -> FloatArray:
    """Reward of one step by the fleet's `reward` setting, elementwise: minus the server steps lost.

    `allocation` and `demand` are in servers, of shapes that broadcast.
    """
    rewards = {"asymmetric": asymmetric, "notebook": notebook}
    return rewards[parameters.reward](allocation, demand, parameters.over_prov_factor)


def asymmetric(allocation: ArrayLike, demand: ArrayLike, over_prov_factor: float) -> FloatArray:
    """The reward that the notebook's text describes: x idle cost x, x missing cost factor * x."""
    surplus = np.asarray(allocation, dtype=np.float64) - np.asarray(demand, dtype=np.float64)
    cost = np.where(surplus > 0, surplus, -over_prov_factor * surplus)
    return np.where(surplus == 0, EXACT_REWARD, -cost)


def notebook(allocation: ArrayLike, demand: ArrayLike, over_prov_factor: float) -> FloatArray:
    """The notebook's reward, bit for bit, with its last line, which rewards idle servers.

    Source: `step` of the notebook's gameserver_env.py. At a factor above 1 each idle server
    earns ``over_prov_factor - 1``, so the best policy is "always max": use `asymmetric`.
    """
    alloc = np.asarray(allocation, dtype=np.float64)
    need = np.asarray(demand, dtype=np.float64)
    first = asymmetric(alloc, need, NOTEBOOK_UNDER_FACTOR)
    return first - (need - alloc) * over_prov_factor
