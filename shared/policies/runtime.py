"""Runs policies: from an artefact (LiteRT), a fleet's own or the pretrained one, or the rule."""

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
from shared.core.forecasts import LEAD_STEPS
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy, prior_of
from shared.core.rules import trend
from shared.errors import BadSetting, PolicyCorrupt, PolicyUnfit
from shared.library_notices import library_notices_dropped
from shared.messages import PolicyManifest
from shared.policies.store import LITERT_MODEL, PolicyStore, read_checked, read_manifest
from shared.policies.store_seal import SigningKey

PRETRAINED = "general"
"""The name, as stored, of the pretrained policy and of the fleet that its artefact is under."""
PRETRAINED_STORE = PolicyStore.at(Path(__file__).parent / "bundled_policies")
"""Part of the package; `autopilot train --demand synthetic` makes its artefact."""
SMALLEST_SCALE = 2.0**-10
"""Smallest scale of the observation from which an action above the ceiling is extrapolated."""


class Policy(BatchPolicy, Protocol):
    """A policy of a live fleet, with its version."""

    @property
    def version(self) -> str: ...

    @property
    def learnt(self) -> bool: ...

    @property
    def exploration(self) -> float:
        """Standard deviation of sampled actions where the fleet explores; 0: none."""
        ...


def experts_actions(policy: BatchPolicy, observation: Sequence[float]) -> tuple[float, ...]:
    """The experts' actions for one observation in servers."""
    actions = policy.actions(np.array([observation], dtype=np.float64))
    return tuple(actions[0].tolist())


def first_action(policy: BatchPolicy, observation: Sequence[float]) -> float:
    """A policy's action by its prior weights, before any adaptation."""
    return average(experts_actions(policy, observation), prior_of(policy))


class RulePolicy:
    """The rule `trend`, for a fleet that no policy fits."""

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
    """A loaded LiteRT artefact, whose actions are in its own `action_factor` and limits."""

    learnt = True

    def __init__(self, model: bytes, manifest: PolicyManifest) -> None:
        """Raises `PolicyCorrupt` for an invalid model, or one that does not match its manifest."""
        self.manifest = manifest
        try:
            own_lead = manifest.parameters.lead_steps
        except BadSetting as error:
            raise PolicyCorrupt(f"policy {manifest.version}: its manifest says {error}") from error
        self.lead_steps = own_lead if manifest.lobby is None else LEAD_STEPS
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
        outputs = sorted(outputs, key=lambda detail: detail["shape"][-1])
        shapes = [[1, max(1, len(manifest.experts))]]
        if manifest.lobby is not None:
            shapes.append([1, len(manifest.lobby.horizons) * len(manifest.lobby.levels)])
        wanted = ([[1, size]], shapes)
        found = tuple([detail["shape"].tolist() for detail in side] for side in (inputs, outputs))
        if found != wanted:
            raise PolicyCorrupt(
                f"policy {manifest.version}: the model maps {found[0]} to {found[1]}, "
                f"its manifest says {wanted[0]} to {wanted[1]}"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._forecast = outputs[-1]["index"]
        probe = np.full((1, size), manifest.min_servers)
        actions = self.actions(probe)
        if not np.isfinite(actions).all():
            raise PolicyCorrupt(f"policy {manifest.version}: its actions are {actions.tolist()}")
        probe[:, [field.startswith("target[") for field in self.fields]] = np.nan
        differs = not np.array_equal(self.actions(probe), actions)
        # In the lobby's dynamics targets are the fleet's state, whatever one probe says.
        self.reads_targets = differs or manifest.lobby is not None

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
        """The experts' actions, ``(rows, experts)``; the model takes one observation at a time."""
        return self._run(observations, self._output, max(1, len(self.experts)))

    def quantiles(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """Forecasts in servers, ``(rows, horizons, levels)``, of a policy of the lobby's dynamics.

        Raises `PolicyUnfit` of any other.
        """
        lobby = self.manifest.lobby
        if lobby is None:
            raise PolicyUnfit(f"policy {self.version} forecasts nothing: it is of the notebook's")
        shape = (len(lobby.horizons), len(lobby.levels))
        flat = self._run(observations, self._forecast, shape[0] * shape[1])
        return flat.astype(np.float64).reshape(len(flat), *shape)

    def _run(
        self, observations: NDArray[np.floating[Any]], output: int, width: int
    ) -> NDArray[np.float32]:
        rows = np.asarray(observations, dtype=np.float32)
        found = np.empty((len(rows), width), dtype=np.float32)
        for number in range(len(rows)):
            self._interpreter.set_tensor(self._input, rows[number : number + 1])
            self._interpreter.invoke()
            found[number] = self._interpreter.get_tensor(output)[0]
        return found


class FleetPolicy:
    """An artefact as a fleet runs it: in the fleet's `action_factor`, up to its `max_servers`.

    The limits are the fleet's, and may have changed since the policy was trained. A graph clips its
    actions at a ceiling, the `highest_action` of the limits that it was exported with. Where the
    fleet's `max_servers` is above that, the action is extrapolated from scaled-down observations:
    except for a constant that a rule adds, a policy is in local units, so its action is linear in
    the scale of the observation.
    """

    learnt = True

    def __init__(
        self,
        manifest: PolicyManifest,
        parameters: FleetParameters,
        artefact: Callable[[], LearntPolicy],
    ) -> None:
        """`artefact` loads the artefact; it is called when the policy is first evaluated."""
        self.manifest = manifest
        self.version = manifest.version
        self.fields = manifest.observation_fields
        self.experts = manifest.experts
        made_for = manifest.parameters
        self.lead_steps = made_for.lead_steps
        self._factor = manifest.action_factor / parameters.action_factor
        self.exploration = self._factor * manifest.exploration
        self._artefact = artefact
        ceiling_binds = made_for.highest_action * made_for.action_factor < parameters.max_servers
        self._ceiling = float(np.float32(made_for.highest_action)) if ceiling_binds else math.inf
        self._servers = in_servers(self.fields)

    @property
    def reads_targets(self) -> bool:
        return self._artefact().reads_targets

    def actions(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """The experts' actions for observations in servers, in the fleet's `action_factor`."""
        seen = np.asarray(observations, dtype=np.float64)
        actions = self._artefact().actions(seen).astype(np.float64)
        for row in np.flatnonzero((actions >= self._ceiling).any(axis=1)):
            actions[row] = self._without_ceiling(seen[row], actions[row])
        scaled: FloatArray = self._factor * actions
        return scaled

    def _without_ceiling(self, seen: FloatArray, actions: FloatArray) -> FloatArray:
        """Actions for one observation; those at the ceiling are extrapolated."""

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
                # The second point is near the first: a graph clips at 0 servers too.
                slope = (near - of_smaller(0.75 * scale)) / (0.25 * scale)
                found[under] = (near + (1.0 - scale) * slope)[under]
                cut &= ~under
        return found


def initial_policy(parameters: FleetParameters) -> Policy:
    """The policy of a fleet without a champion: the pretrained one if it fits, else the rule."""
    fitting = [one for one in _pretrained_manifests() if why_unfit(one, parameters) is None]
    if not fitting:
        return RulePolicy(parameters)
    manifest = max(fitting, key=lambda one: one.history_len)
    return FleetPolicy(manifest, parameters, lambda: _loaded(manifest.version))


def pretrained_manifest(parameters: FleetParameters) -> PolicyManifest | None:
    """The manifest of the pretrained policy for the fleet's observation; None without one."""
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
    """The interpreter of a pretrained policy, shared by all fleets, made at its first use."""
    manifest = PRETRAINED_STORE.manifest(PRETRAINED, version)
    return LearntPolicy(PRETRAINED_STORE.read(manifest, LITERT_MODEL), manifest)


def load_artefact(folder: Path, key: SigningKey | None = None) -> LearntPolicy:
    """The verified policy in a folder; raises `PolicyMissing` or `PolicyCorrupt`."""
    manifest = read_manifest(folder, key)
    return LearntPolicy(read_checked(folder, manifest, LITERT_MODEL), manifest)


def load_policy(
    store: PolicyStore, fleet: str, version: str, parameters: FleetParameters
) -> FleetPolicy:
    """Load and verify a version, for the fleet's present limits and `action_factor`.

    Raises `PolicyMissing`; `PolicyCorrupt` when it is damaged; `PolicyUnfit` when its observation
    has fields that the fleet lacks.
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
    """The reason why a policy can't serve a fleet, and what happens next; None if it can.

    Limits, `action_factor`, reward and underage cost do not matter. A fleet's observation has
    `history_len` targets, and the notebook's as many demands, so a policy that was trained for a
    shorter lead time finds all of its fields.
    """
    if manifest.dynamics == "lobby":
        return "is of the lobby's dynamics, in which no fleet runs yet: `autopilot backtest` it"
    made_for = manifest.history_len
    notebook = manifest.observation_fields == notebook_fields(made_for)
    if not notebook and manifest.observation_fields != calendar_fields(made_for):
        return "has an observation that no fleet has: train another"
    if not notebook and parameters.observation == "notebook":
        return "sees the calendar and OBSERVATION=notebook hides it: set calendar, or train another"
    if made_for > parameters.history_len:
        return (
            f"plans for HISTORY_LEN={made_for} and the fleet has {parameters.history_len}: it "
            "stays in the store, and the next training makes one from the recorded demand"
        )
    return None


def plans_short(policy: Policy, parameters: FleetParameters) -> str | None:
    """A warning for a policy that was trained for a shorter lead time; None for any other."""
    if policy.lead_steps >= parameters.lead_steps:
        return None
    return (
        f"it plans {policy.lead_steps} steps ahead, and servers are assumed to take "
        f"{parameters.lead_steps}: it serves until training has made a better one for "
        f"HISTORY_LEN={parameters.history_len}"
    )
