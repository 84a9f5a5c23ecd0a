"""Every setting, from `AUTOPILOT_*` environment variables; only entry points read it.

Named as the notebook names its parameters. A fleet file (`AUTOPILOT_FLEETS`, TOML, one table a
fleet) may set any of `FleetSettings` for a fleet, in lower case.
"""

from shared.settings.aws import aws_endpoint, aws_region
from shared.settings.fleets import (
    LOCAL_DEMAND,
    LONGEST_TRAINING_SECONDS,
    Fleets,
    FleetSettings,
)
from shared.settings.loading import NAMES, load_fleets, load_hosting_settings, load_settings
from shared.settings.platform import LAST_SEED, HostingSettings, Settings

__all__ = [
    "LAST_SEED",
    "LOCAL_DEMAND",
    "LONGEST_TRAINING_SECONDS",
    "NAMES",
    "FleetSettings",
    "Fleets",
    "HostingSettings",
    "Settings",
    "aws_endpoint",
    "aws_region",
    "load_fleets",
    "load_hosting_settings",
    "load_settings",
]
