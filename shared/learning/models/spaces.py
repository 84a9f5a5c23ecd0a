"""Gymnasium spaces of a fleet's observations and actions."""

import gymnasium as gym
import numpy as np

from shared.core.parameters import FleetParameters


def observation_space(parameters: FleetParameters) -> gym.spaces.Box:
    """The observation space, shape ``(fields,)``; the notebook's is bounded by the limits."""
    size = len(parameters.observation_fields)
    if parameters.observation == "calendar":
        return gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
    return gym.spaces.Box(parameters.min_servers, parameters.max_servers, (size,), np.float64)


def action_space(parameters: FleetParameters) -> gym.spaces.Box:
    """The action space, shape ``(1,)``."""
    return gym.spaces.Box(0.0, parameters.highest_action, (1,), np.float32)
