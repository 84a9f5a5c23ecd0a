"""Load a policy from its RLlib checkpoint: a pickle, so only from a folder that was verified."""

import sys
from dataclasses import replace
from pathlib import Path

from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt, PolicyMissing
from shared.learning.models.network import ResidualModule
from shared.learning.rllib import DEFAULT_MODULE_ID

LEARNER_GROUP = "learner_group"
"""Folder within a checkpoint of an RLlib algorithm, and of the on-policy trainer."""
FORMER_MODULE = "services.trainer.module"
"""Python module of `ResidualModule` in the releases up to 0.2."""
_RL_MODULE = f"learner/rl_module/{DEFAULT_MODULE_ID}"


def load_module(learner_group: Path) -> ResidualModule:
    """The module of a learner group's checkpoint; raises `PolicyMissing` or `PolicyCorrupt`."""
    folder = learner_group / _RL_MODULE
    if not folder.is_dir():
        raise PolicyMissing(
            f"{learner_group} has no checkpoint: train with AUTOPILOT_SAVE_MODEL=1 to write one"
        )
    # A checkpoint holds the class path of the release that has written it.
    sys.modules.setdefault(FORMER_MODULE, sys.modules[ResidualModule.__module__])
    try:
        module = ResidualModule.from_checkpoint(str(folder.absolute()))
    except Exception as error:  # RLlib unpickles, which raises anything
        raise PolicyCorrupt(f"{folder} is not a checkpoint of a policy: {error}") from error
    if not isinstance(module, ResidualModule):
        raise PolicyCorrupt(f"{folder} is a {type(module).__name__}, not a ResidualModule")
    return module


def load_policy_module(checkpoint: Path) -> ResidualModule:
    """The module in a checkpoint's folder; raises `PolicyMissing` or `PolicyCorrupt`."""
    return load_module(checkpoint / LEARNER_GROUP)


def parameters_for(module: ResidualModule, fleet: FleetParameters) -> FleetParameters:
    """The fleet's parameters, with the lead time and `action_factor` of a trained module."""
    shape = module.shape
    return replace(fleet, history_len=shape.lead_steps - 1, action_factor=shape.action_factor)
