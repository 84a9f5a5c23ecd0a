"""Run a policy: a learnt one from its artefact (LiteRT), the general one, or the plain rule."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from shared.core.adaptation import ONE_EXPERT, average
from shared.core.baselines import trend
from shared.core.observation import notebook_fields
from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt
from shared.messages import PolicyManifest
from shared.policy_store import LITERT_MODEL, PolicyStore, read_checked, read_manifest
from shared.policy_store_seal import SigningKey

GENERAL = "general"
"""The made-up fleet whose policy serves those that have none of their own."""
GENERAL_STORE = PolicyStore.at(Path(__file__).parent / "bundled_policies")
"""Comes with the package; `autopilot train --demand synthetic` makes what is in it."""


class Policy(Protocol):
    """What decides: observation in servers in, action out (1.0 is `action_factor` servers).

    `fields` names the numbers of an observation; NaN where history does not reach.
    """

    @property
    def version(self) -> str: ...

    @property
    def learnt(self) -> bool: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def exploration(self) -> float:
        """Standard deviation of the action where a fleet explores; 0: it has none."""
        ...

    @property
    def prior(self) -> tuple[float, ...]:
        """What each expert's answer counts for before its outcomes are known; the sum is 1."""
        ...

    def answers(self, observation: Sequence[float]) -> tuple[float, ...]:
        """The experts' actions; most policies have one."""
        ...


def first_action(policy: Policy, observation: Sequence[float]) -> float:
    """What a policy does before it has learnt from any outcome."""
    return average(policy.answers(observation), policy.prior)


class RulePolicy:
    """The best plain rule, for a fleet that has no champion yet."""

    version = "rule:trend"
    learnt = False
    exploration = 0.0
    prior = ONE_EXPERT

    def __init__(self, parameters: FleetParameters) -> None:
        self._parameters = parameters
        self.fields = notebook_fields(parameters.history_len)

    def answers(self, observation: Sequence[float]) -> tuple[float, ...]:
        """The rule's target for the demands in the observation, as an action."""
        demands = observation[: self._parameters.history_len]
        return (float(trend(demands, self._parameters)) / self._parameters.action_factor,)


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
        self.prior = tuple(manifest.experts.values()) or ONE_EXPERT
        wanted = ([[1, len(manifest.observation_fields)]], [[1, len(self.prior)]])
        found = tuple([detail["shape"].tolist() for detail in side] for side in (inputs, outputs))
        if found != wanted:
            raise PolicyCorrupt(
                f"policy {manifest.version}: the model maps {found[0]} to {found[1]}, "
                f"its manifest says {wanted[0]} to {wanted[1]}"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._buffer = np.zeros(wanted[0][0], dtype=np.float32)
        probe = self.answers([manifest.min_servers] * len(manifest.observation_fields))
        if not np.isfinite(probe).all():
            raise PolicyCorrupt(f"policy {manifest.version}: the model answers {probe}")

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def fields(self) -> tuple[str, ...]:
        return self.manifest.observation_fields

    @property
    def exploration(self) -> float:
        return self.manifest.exploration

    def answers(
        self, observation: Sequence[float] | NDArray[np.floating[Any]]
    ) -> tuple[float, ...]:
        """The experts' actions for one observation in servers, in the manifest's field order."""
        self._buffer[0] = observation
        self._interpreter.set_tensor(self._input, self._buffer)
        self._interpreter.invoke()
        return tuple(self._interpreter.get_tensor(self._output)[0].tolist())


class GeneralPolicy:
    """The general policy, which has no scale, for a fleet of any size."""

    learnt = True
    exploration = 0.0
    prior = ONE_EXPERT

    def __init__(self, manifest: PolicyManifest, parameters: FleetParameters) -> None:
        self.version = manifest.version
        self.fields = manifest.observation_fields
        self._scale = manifest.action_factor / parameters.action_factor

    def answers(
        self, observation: Sequence[float] | NDArray[np.floating[Any]]
    ) -> tuple[float, ...]:
        """The action for one observation in servers, by the fleet's own `action_factor`."""
        return tuple(self._scale * one for one in _loaded(self.version).answers(observation))


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


def load_artefact(folder: Path, key: SigningKey | None = None) -> LearntPolicy:
    """The policy in a folder, checked; raises `PolicyMissing` or `PolicyCorrupt`."""
    manifest = read_manifest(folder, key)
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
