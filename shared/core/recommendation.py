"""From a target to what the outside is told: a whole number of servers."""

import math

from shared.core.parameters import FleetParameters

TARGET_DECIMALS = 3
"""A policy's float32 makes 85.000002 of 85: less than a thousandth of a server is no server."""


def whole_servers(target: float, parameters: FleetParameters) -> int:
    """A target, or a demand, rounded up to whole servers within the fleet's limits."""
    servers = min(max(target, parameters.min_servers), parameters.max_servers)
    return min(math.ceil(round(servers, TARGET_DECIMALS)), math.floor(parameters.max_servers))
