"""The general policy, which comes with the package, as fleets' learning and the gate use it.

A policy's graph has no scale of its own, so one policy serves fleets of any size. It serves those
without a history, and every fleet's own learning begins from it in half of its nets.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.core.parameters import FleetParameters
from shared.learning.models.network import MEMBERS, ResidualModule, module_of
from shared.policies.runtime import PRETRAINED_STORE, pretrained_manifest

NETS = "nets.npz"
"""The nets' weights in the general policy's artefact."""

Nets = Mapping[str, Any]


def pretrained_nets(parameters: FleetParameters) -> Nets | None:
    """Weights by name, ``nets.first`` and so on; None for an observation that it does not have."""
    manifest = pretrained_manifest(parameters)
    if manifest is None:
        return None
    with np.load(io.BytesIO(PRETRAINED_STORE.read(manifest, NETS))) as weights:
        return {f"nets.{name}": weights[name] for name in weights.files}


def pretrained_module(parameters: FleetParameters) -> ResidualModule | None:
    """The general policy with a fleet's limits; None for an observation that it does not have."""
    nets = pretrained_nets(parameters)
    if nets is None:
        return None
    module = module_of(parameters, seed=0)
    module.set_state({**module.get_state(), **nets})
    return module


def initialised_from(state: Nets, general: Nets | None) -> dict[str, Any]:
    """A module's state, with the first half of its nets those of the general policy."""
    begun = {name: value.copy() for name, value in state.items()}
    for name, weights in (general or {}).items():
        begun[name][: MEMBERS // 2] = weights[: MEMBERS // 2]
    return begun
