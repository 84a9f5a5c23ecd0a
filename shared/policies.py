"""Run a policy: a learnt one from its artefact (LiteRT), the general one, or the plain rule."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from shared.core.adaptation import average
from shared.core.backtest import BatchPolicy, prior_of
from shared.core.baselines import trend
from shared.core.observation import notebook_fields
from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt
from shared.messages import PolicyManifest
from shared.policy_store import LITERT_MODEL, PolicyStore, read_checked, read_manifest

GENERAL = "general"
"""The made-up fleet whose policy serves those that have none of their own."""
GENERAL_STORE = PolicyStore.at(Path(__file__).parent / "bundled_policies")
"""Comes with the package; `autopilot train --demand synthetic` makes what is in it."""


class Policy(BatchPolicy, Protocol):
    """What decides for a live fleet: a policy, and which one it is."""

    @property
    def version(self) -> str: ...

    @property
    def learnt(self) -> bool: ...

    @property
    def exploration(self) -> float:
        """Standard deviation of the action where a fleet explores; 0: it has none."""
        ...


def experts_actions(policy: BatchPolicy, observation: Sequence[float]) -> tuple[float, ...]:
    """The experts' actions for one observation in servers; most policies have one expert."""
    actions = policy.actions(np.array([observation], dtype=np.float64))
    return tuple(actions[0].tolist())


def first_action(policy: BatchPolicy, observation: Sequence[float]) -> float:
    """What a policy does before it has learnt from any outcome."""
    return average(experts_actions(policy, observation), prior_of(policy))


class RulePolicy:
    """The best plain rule, for a fleet that has no champion yet."""

    version = "rule:trend"
    learnt = False
    exploration = 0.0
    reads_targets = False
    experts: Mapping[str, float] = MappingProxyType({})

    def __init__(self, parameters: FleetParameters) -> None:
        self._parameters = parameters
        self.fields = notebook_fields(parameters.history_len)

    def actions(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The rule's target for the demands in each observation, as an action."""
        demands = observations[:, : self._parameters.history_len]
        return trend(demands, self._parameters)[:, np.newaxis] / self._parameters.action_factor


class LearntPolicy:
    """A policy artefact in LiteRT, ready to answer."""

    learnt = True

    def __init__(self, model: bytes, manifest: PolicyManifest) -> None:
        """Raises `PolicyCorrupt` when the model is not one, or does not fit its manifest."""
        self.manifest = manifest
        try:
            self._interpreter = Interpreter(model_content=model, num_threads=1)
            self._interpreter.allocate_tensors()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except (RuntimeError, ValueError) as error:
            raise PolicyCorrupt(
                f"policy {manifest.version}: not a LiteRT model: {error}"
            ) from error
        size = len(manifest.observation_fields)
        wanted = ([[1, size]], [[1, max(1, len(manifest.experts))]])
        found = tuple([detail["shape"].tolist() for detail in side] for side in (inputs, outputs))
        if found != wanted:
            raise PolicyCorrupt(
                f"policy {manifest.version}: the model maps {found[0]} to {found[1]}, "
                f"its manifest says {wanted[0]} to {wanted[1]}"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        probe = np.full((1, size), manifest.min_servers)
        actions = self.actions(probe)
        if not np.isfinite(actions).all():
            raise PolicyCorrupt(f"policy {manifest.version}: the model answers {actions.tolist()}")
        probe[:, [field.startswith("target[") for field in self.fields]] = np.nan
        self.reads_targets = not np.array_equal(self.actions(probe), actions)

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def fields(self) -> tuple[str, ...]:
        return self.manifest.observation_fields

    @property
    def experts(self) -> Mapping[str, float]:
        return self.manifest.experts

    @property
    def exploration(self) -> float:
        return self.manifest.exploration

    def actions(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The experts' actions ``(rows, experts)``, one row after the other, as it is written."""
        rows = np.asarray(observations, dtype=np.float32)
        actions = np.empty((len(rows), max(1, len(self.experts))), dtype=np.float32)
        for number, row in enumerate(rows):
            self._interpreter.set_tensor(self._input, row[np.newaxis])
            self._interpreter.invoke()
            actions[number] = self._interpreter.get_tensor(self._output)[0]
        return actions


class GeneralPolicy:
    """The general policy, which has no scale, for a fleet of any size."""

    learnt = True
    exploration = 0.0
    reads_targets = False
    experts: Mapping[str, float] = MappingProxyType({})

    def __init__(self, manifest: PolicyManifest, parameters: FleetParameters) -> None:
        self.version = manifest.version
        self.fields = manifest.observation_fields
        self._scale = manifest.action_factor / parameters.action_factor

    def actions(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The actions for observations in servers, by the fleet's own `action_factor`."""
        return self._scale * _loaded(self.version).actions(observations)


def first_policy(parameters: FleetParameters) -> Policy:
    """What serves a fleet that has no champion: the general policy where it fits, else the rule."""
    manifest = general_manifest(parameters)
    return RulePolicy(parameters) if manifest is None else GeneralPolicy(manifest, parameters)


def general_manifest(parameters: FleetParameters) -> PolicyManifest | None:
    """Of the general policy that sees what the fleet can show; None where there is none."""
    fits = (one for one in _generals() if one.observation_fields == parameters.observation_fields)
    return next(fits, None)


@cache
def _generals() -> tuple[PolicyManifest, ...]:
    versions = GENERAL_STORE.versions(GENERAL)
    return tuple(GENERAL_STORE.manifest(GENERAL, version) for version in versions)


@cache
def _loaded(version: str) -> LearntPolicy:
    """One interpreter for all fleets, made when it is first asked."""
    manifest = GENERAL_STORE.manifest(GENERAL, version)
    return LearntPolicy(GENERAL_STORE.read(manifest, LITERT_MODEL), manifest)


def load_artefact(folder: Path) -> LearntPolicy:
    """The policy in a folder, checked; raises `PolicyMissing` or `PolicyCorrupt`."""
    manifest = read_manifest(folder)
    return LearntPolicy(read_checked(folder, manifest, LITERT_MODEL), manifest)


def load_policy(
    store: PolicyStore, fleet: str, version: str, parameters: FleetParameters
) -> LearntPolicy:
    """Load and check a version; raises `PolicyMissing`, or `PolicyCorrupt` if it can't serve.

    A policy that sees the notebook's numbers serves a fleet that could show it more.
    """
    manifest = store.manifest(fleet, version)
    fields = parameters.observation_fields
    if manifest.observation_fields == notebook_fields(parameters.history_len):
        fields = manifest.observation_fields
    expected = (
        fields,
        parameters.min_servers,
        parameters.max_servers,
        parameters.action_factor,
    )
    trained = (
        manifest.observation_fields,
        manifest.min_servers,
        manifest.max_servers,
        manifest.action_factor,
    )
    if (manifest.fleet, manifest.version) != (fleet, version) or trained != expected:
        raise PolicyCorrupt(
            f"policy {version} was trained for other settings ({trained}) than those of fleet "
            f"{fleet!r} ({expected}): train it again"
        )
    return LearntPolicy(store.read(manifest, LITERT_MODEL), manifest)
