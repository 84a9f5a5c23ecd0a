"""The spaces of a fleet's observations and actions, as Gymnasium describes them."""

import gymnasium as gym
import numpy as np

from shared.core.parameters import FleetParameters


def observation_space(parameters: FleetParameters) -> gym.spaces.Box:
    """Observations of a fleet, shape ``(fields,)``; the notebook's are within its limits."""
    size = len(parameters.observation_fields)
    if parameters.observation == "calendar":
        return gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
    return gym.spaces.Box(parameters.min_servers, parameters.max_servers, (size,), np.float64)


def action_space(parameters: FleetParameters) -> gym.spaces.Box:
    """Actions of a fleet, shape ``(1,)``."""
    return gym.spaces.Box(0.0, parameters.highest_action, (1,), np.float32)
