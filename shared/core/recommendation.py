"""From a target to the number told: a whole number of servers."""

import math

from shared.core.parameters import FleetParameters

TARGET_DECIMALS = 3
"""Targets are rounded to thousandths of a server first: in float32, 85 may be 85.000002."""


def whole_servers(target: float, parameters: FleetParameters) -> int:
    """A target, or a demand, rounded up to whole servers within the fleet's limits."""
    servers = parameters.one_within_limits(target)
    return min(math.ceil(round(servers, TARGET_DECIMALS)), math.floor(parameters.max_servers))
