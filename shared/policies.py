"""Run a policy: one from its artefact (LiteRT), the fleet's own or the general, or the rule."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from shared.core.adaptation import ONE_EXPERT, average
from shared.core.baselines import trend
from shared.core.observation import calendar_fields, in_servers, notebook_fields
from shared.core.parameters import FleetParameters
from shared.errors import BadSetting, PolicyCorrupt, PolicyUnfit
from shared.messages import PolicyManifest
from shared.policy_store import LITERT_MODEL, PolicyStore, read_checked, read_manifest
from shared.policy_store_seal import SigningKey

GENERAL = "general"
"""The made-up fleet whose policy serves those that have none of their own."""
GENERAL_STORE = PolicyStore.at(Path(__file__).parent / "bundled_policies")
"""Comes with the package; `autopilot train --demand synthetic` makes what is in it."""
SMALLEST_SCALE = 2.0**-10
"""Of the fleets that a policy is asked about to find what it says above its ceiling."""


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
    def lead_steps(self) -> int:
        """Steps from the newest demand to the one that it plans for; the fleet's, or fewer."""
        ...

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
        self.lead_steps = parameters.lead_steps

    def answers(self, observation: Sequence[float]) -> tuple[float, ...]:
        """The rule's target for the demands in the observation, as an action."""
        demands = observation[: self._parameters.history_len]
        return (float(trend(demands, self._parameters)) / self._parameters.action_factor,)


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
        self.prior = tuple(manifest.experts.values()) or ONE_EXPERT
        made_for = manifest.parameters
        self.lead_steps = made_for.lead_steps
        self._factor = manifest.action_factor / parameters.action_factor
        self.exploration = self._factor * manifest.exploration
        self._artefact = artefact
        in_the_way = made_for.highest_action * made_for.action_factor < parameters.max_servers
        self._ceiling = float(np.float32(made_for.highest_action)) if in_the_way else math.inf
        self._servers = in_servers(self.fields)

    def answers(
        self, observation: Sequence[float] | NDArray[np.floating[Any]]
    ) -> tuple[float, ...]:
        """The experts' actions for one observation in servers, by the fleet's `action_factor`."""
        answers = self._artefact().answers(observation)
        if max(answers) >= self._ceiling:
            answers = self._without_ceiling(observation, answers)
        return tuple(self._factor * one for one in answers)

    def _without_ceiling(
        self, observation: Sequence[float] | NDArray[np.floating[Any]], answers: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The same, with what is cut off continued from where it is not."""
        seen, found = np.asarray(observation, dtype=np.float64), np.array(answers)

        def of_smaller(scale: float) -> NDArray[np.float64]:
            scaled = np.where(self._servers, scale * seen, seen)
            return np.array(self._artefact().answers(scaled))

        cut, scale = found >= self._ceiling, 1.0
        while cut.any() and scale > SMALLEST_SCALE:
            scale /= 2
            near = of_smaller(scale)
            under = cut & (near < self._ceiling)
            if under.any():
                # A second point near the first: a graph cuts off at 0 servers too.
                slope = (near - of_smaller(0.75 * scale)) / (0.25 * scale)
                found[under] = (near + (1.0 - scale) * slope)[under]
                cut &= ~under
        return tuple(found.tolist())


def first_policy(parameters: FleetParameters) -> Policy:
    """What serves a fleet that has no champion: the general policy where it fits, else the rule."""
    fitting = [one for one in _generals() if why_unfit(one, parameters) is None]
    if not fitting:
        return RulePolicy(parameters)
    manifest = max(fitting, key=lambda one: one.history_len)
    return FleetPolicy(manifest, parameters, lambda: _loaded(manifest.version))


def general_manifest(parameters: FleetParameters) -> PolicyManifest | None:
    """Of the general policy that is made for the fleet's own observation; None without one."""
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
