"""The pretrained policy, which comes with the package, as training and the gate use it.

A policy is independent of the scale of demand, so one serves fleets of any size. It serves fleets
without a history, and half of the nets of every fleet's training start from its weights.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.core.parameters import FleetParameters
from shared.learning.models.ensemble import MEMBERS
from shared.learning.models.network import ResidualModule, module_of
from shared.policies.runtime import PRETRAINED_STORE, pretrained_manifest

NETS = "nets.npz"
"""File of the nets' weights in the pretrained policy's artefact."""

Nets = Mapping[str, Any]


def pretrained_nets(parameters: FleetParameters) -> Nets | None:
    """Weights by name, ``nets.first`` and so on; None where no pretrained policy fits."""
    manifest = pretrained_manifest(parameters)
    if manifest is None:
        return None
    with np.load(io.BytesIO(PRETRAINED_STORE.read(manifest, NETS))) as weights:
        return {f"nets.{name}": weights[name] for name in weights.files}


def pretrained_module(parameters: FleetParameters) -> ResidualModule | None:
    """The pretrained policy with a fleet's limits; None where none has the fleet's observation."""
    nets = pretrained_nets(parameters)
    if nets is None:
        return None
    module = module_of(parameters, seed=0)
    module.set_state({**module.get_state(), **nets})
    return module


def initialised_from(state: Nets, pretrained: Nets | None) -> dict[str, Any]:
    """A copy of a module's state, with the first half of its nets from the pretrained policy."""
    initial = {name: value.copy() for name, value in state.items()}
    for name, weights in (pretrained or {}).items():
        initial[name][: MEMBERS // 2] = weights[: MEMBERS // 2]
    return initial
