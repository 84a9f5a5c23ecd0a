"""A policy from its RLlib checkpoint: pickles, so only of a folder whose files were checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.module import ResidualModule
from services.trainer.rllib import DEFAULT_MODULE_ID
from shared.core.adaptation import ONE_EXPERT
from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt, PolicyMissing

LEARNER_GROUP = "learner_group"
"""Folder within a checkpoint; both an algorithm's and the on-policy trainer's have it."""
_RL_MODULE = f"learner/rl_module/{DEFAULT_MODULE_ID}"


def load_module(learner_group: Path) -> ResidualModule:
    """The module of a learner group's checkpoint; raises `PolicyMissing` or `PolicyCorrupt`."""
    folder = learner_group / _RL_MODULE
    if not folder.is_dir():
        raise PolicyMissing(
            f"{learner_group} has no checkpoint: train with AUTOPILOT_SAVE_MODEL=1 to have one"
        )
    try:
        module = ResidualModule.from_checkpoint(str(folder.absolute()))
    except Exception as error:  # RLlib unpickles, which raises anything
        raise PolicyCorrupt(f"{folder} is no checkpoint of a policy: {error}") from error
    if not isinstance(module, ResidualModule):
        raise PolicyCorrupt(f"{folder} is a {type(module).__name__}, not a ResidualModule")
    return module


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """The policy of a checkpoint, by its mean action, for a replay."""

    module: ResidualModule
    prior = ONE_EXPERT

    @classmethod
    def load(cls, checkpoint: Path) -> "CheckpointPolicy":
        """Of a folder that has a learner group's; raises `PolicyMissing` or `PolicyCorrupt`."""
        return cls(load_module(checkpoint / LEARNER_GROUP))

    @property
    def fields(self) -> tuple[str, ...]:
        return self.module.fields

    @property
    def lead_steps(self) -> int:
        return self.module.shape.lead_steps

    def answers(self, observation: NDArray[np.float64]) -> tuple[float, ...]:
        """Its one action for an observation in servers."""
        return tuple(self.module.decide(observation[np.newaxis])[0].tolist())

    def parameters(self, fleet: FleetParameters) -> FleetParameters:
        """A fleet's, with the lead time and the action that the policy was learnt for."""
        shape = self.module.shape
        return replace(fleet, history_len=shape.lead_steps - 1, action_factor=shape.action_factor)
