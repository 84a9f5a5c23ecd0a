"""Run a policy: one from its artefact (LiteRT), the fleet's own or the general, or the rule."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from shared.core.adaptation import average
from shared.core.arrays import FloatArray
from shared.core.fields import calendar_fields, in_servers, notebook_fields
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy, prior_of
from shared.core.rules import trend
from shared.errors import BadSetting, PolicyCorrupt, PolicyUnfit
from shared.library_notices import library_notices_dropped
from shared.messages import PolicyManifest
from shared.policies.store import LITERT_MODEL, PolicyStore, read_checked, read_manifest
from shared.policies.store_seal import SigningKey

PRETRAINED = "general"
"""The made-up fleet whose policy serves those that have none of their own."""
PRETRAINED_STORE = PolicyStore.at(Path(__file__).parent / "bundled_policies")
"""Comes with the package; `autopilot train --demand synthetic` makes what is in it."""
SMALLEST_SCALE = 2.0**-10
"""Of the fleets that a policy is asked about to find what it says above its ceiling."""


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
        self.lead_steps = parameters.lead_steps

    def actions(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """The rule's target for the demands in each observation, as an action."""
        demands = observations[:, : self._parameters.history_len]
        return trend(demands, self._parameters)[:, np.newaxis] / self._parameters.action_factor


class LearntPolicy:
    """A policy artefact in LiteRT, ready to answer, by its own `action_factor` and limits."""

    learnt = True

    def __init__(self, model: bytes, manifest: PolicyManifest) -> None:
        """Raises `PolicyCorrupt` when the model is not one, or does not fit its manifest."""
        self.manifest = manifest
        try:
            self.lead_steps = manifest.parameters.lead_steps
        except BadSetting as error:
            raise PolicyCorrupt(f"policy {manifest.version}: its manifest says {error}") from error
        try:
            with library_notices_dropped():
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
        """The experts' actions, ``(rows, experts)``: the file takes one observation at a time."""
        rows = np.asarray(observations, dtype=np.float32)
        actions = np.empty((len(rows), max(1, len(self.experts))), dtype=np.float32)
        for number in range(len(rows)):
            self._interpreter.set_tensor(self._input, rows[number : number + 1])
            self._interpreter.invoke()
            actions[number] = self._interpreter.get_tensor(self._output)[0]
        return actions


class FleetPolicy:
    """An artefact as one fleet runs it: by the fleet's `action_factor`, up to its `max_servers`.

    Limits are the fleet's and not its policy's: both may have changed since the policy was made.
    A graph cuts its actions off at a ceiling, the `highest_action` of the limits that it was
    exported with. Where the fleet's `max_servers` is above it, its answers for smaller fleets tell
    what it would say without a ceiling: all but the constant number of servers that a rule adds is
    in local units, so its answer is a straight line in the scale of the observation.
    """

    learnt = True

    def __init__(
        self,
        manifest: PolicyManifest,
        parameters: FleetParameters,
        artefact: Callable[[], LearntPolicy],
    ) -> None:
        """`artefact` is asked for when the policy first answers."""
        self.manifest = manifest
        self.version = manifest.version
        self.fields = manifest.observation_fields
        self.experts = manifest.experts
        made_for = manifest.parameters
        self.lead_steps = made_for.lead_steps
        self._factor = manifest.action_factor / parameters.action_factor
        self.exploration = self._factor * manifest.exploration
        self._artefact = artefact
        in_the_way = made_for.highest_action * made_for.action_factor < parameters.max_servers
        self._ceiling = float(np.float32(made_for.highest_action)) if in_the_way else math.inf
        self._servers = in_servers(self.fields)

    @property
    def reads_targets(self) -> bool:
        return self._artefact().reads_targets

    def actions(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """The experts' actions for observations in servers, by the fleet's `action_factor`."""
        seen = np.asarray(observations, dtype=np.float64)
        actions = self._artefact().actions(seen).astype(np.float64)
        for row in np.flatnonzero((actions >= self._ceiling).any(axis=1)):
            actions[row] = self._without_ceiling(seen[row], actions[row])
        scaled: FloatArray = self._factor * actions
        return scaled

    def _without_ceiling(self, seen: FloatArray, actions: FloatArray) -> FloatArray:
        """Actions for one observation, what is cut off continued from where it is not."""

        def of_smaller(scale: float) -> FloatArray:
            scaled = np.where(self._servers, scale * seen, seen)
            actions: FloatArray = self._artefact().actions(scaled[np.newaxis])[0]
            return actions.astype(np.float64)

        found, cut, scale = actions.copy(), actions >= self._ceiling, 1.0
        while cut.any() and scale > SMALLEST_SCALE:
            scale /= 2
            near = of_smaller(scale)
            under = cut & (near < self._ceiling)
            if under.any():
                # A second point near the first: a graph cuts off at 0 servers too.
                slope = (near - of_smaller(0.75 * scale)) / (0.25 * scale)
                found[under] = (near + (1.0 - scale) * slope)[under]
                cut &= ~under
        return found


def initial_policy(parameters: FleetParameters) -> Policy:
    """What serves a fleet that has no champion: the general policy where it fits, else the rule."""
    fitting = [one for one in _pretrained_manifests() if why_unfit(one, parameters) is None]
    if not fitting:
        return RulePolicy(parameters)
    manifest = max(fitting, key=lambda one: one.history_len)
    return FleetPolicy(manifest, parameters, lambda: _loaded(manifest.version))


def pretrained_manifest(parameters: FleetParameters) -> PolicyManifest | None:
    """Of the general policy that is made for the fleet's own observation; None without one."""
    fits = (
        one
        for one in _pretrained_manifests()
        if one.observation_fields == parameters.observation_fields
    )
    return next(fits, None)


@cache
def _pretrained_manifests() -> tuple[PolicyManifest, ...]:
    versions = PRETRAINED_STORE.versions(PRETRAINED)
    return tuple(PRETRAINED_STORE.manifest(PRETRAINED, version) for version in versions)


@cache
def _loaded(version: str) -> LearntPolicy:
    """One interpreter for all fleets, made when it is first asked."""
    manifest = PRETRAINED_STORE.manifest(PRETRAINED, version)
    return LearntPolicy(PRETRAINED_STORE.read(manifest, LITERT_MODEL), manifest)


def load_artefact(folder: Path, key: SigningKey | None = None) -> LearntPolicy:
    """The policy in a folder, checked; raises `PolicyMissing` or `PolicyCorrupt`."""
    manifest = read_manifest(folder, key)
    return LearntPolicy(read_checked(folder, manifest, LITERT_MODEL), manifest)


def load_policy(
    store: PolicyStore, fleet: str, version: str, parameters: FleetParameters
) -> FleetPolicy:
    """Load and check a version, for the fleet's present limits and `action_factor`.

    Raises `PolicyMissing`; `PolicyCorrupt` when it is damaged; `PolicyUnfit` when it needs to see
    what the fleet does not show.
    """
    manifest = store.manifest(fleet, version)
    if (manifest.fleet, manifest.version) != (fleet, version):
        raise PolicyCorrupt(
            f"policy {version} of fleet {fleet!r}: its manifest is that of {manifest.version} of "
            f"fleet {manifest.fleet!r}; publish it under its own name"
        )
    if why := why_unfit(manifest, parameters):
        raise PolicyUnfit(f"policy {version} {why}")
    artefact = LearntPolicy(store.read(manifest, LITERT_MODEL), manifest)
    return FleetPolicy(manifest, parameters, lambda: artefact)


def why_unfit(manifest: PolicyManifest, parameters: FleetParameters) -> str | None:
    """What a policy needs that a fleet does not show, and what comes next; None: nothing.

    Limits, `action_factor`, reward and price are no part of it. A fleet shows as many targets, and
    the notebook's observation as many demands, as its `history_len`: a policy that was made for
    a shorter lead time sees what it needs.
    """
    made_for = manifest.history_len
    notebook = manifest.observation_fields == notebook_fields(made_for)
    if not notebook and manifest.observation_fields != calendar_fields(made_for):
        return "sees fields that no fleet shows: train another"
    if not notebook and parameters.observation == "notebook":
        return "sees the calendar and OBSERVATION=notebook hides it: set calendar, or train another"
    if made_for > parameters.history_len:
        return (
            f"plans for HISTORY_LEN={made_for} and the fleet has {parameters.history_len}: it "
            "stays in the store, recorded demand is kept, and the next training learns from that"
        )
    return None


def plans_short(policy: Policy, parameters: FleetParameters) -> str | None:
    """What it means that a policy was made for a shorter lead time; None: it was not."""
    if policy.lead_steps >= parameters.lead_steps:
        return None
    return (
        f"its numbers are for {policy.lead_steps} steps ahead, and servers are taken to need "
        f"{parameters.lead_steps}: it serves until training has made one for HISTORY_LEN="
        f"{parameters.history_len} that does better"
    )
