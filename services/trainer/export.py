"""Write a trained policy as SavedModel and LiteRT, and see that all forms give one answer."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from torch import Tensor, block_diag

from services.trainer.blend import Blend
from services.trainer.layout import INPUT, OUTPUT, Layout
from services.trainer.module import (
    LIMIT,
    SMALLEST_UNIT,
    USUAL_MOVE,
    PolicyShape,
    ResidualModule,
)
from services.trainer.rule_graph import RuleGraph
from services.trainer.rules import ServedRule
from shared.core.backtest import BatchPolicy, prior_of
from shared.core.fields import notebook_fields
from shared.core.parameters import FleetParameters
from shared.errors import PolicyDisagrees
from shared.policy_store import LITERT_MODEL, SAVED_MODEL

TOLERANCE = 1e-5
"""Largest difference between two forms of a policy, in units of the action."""
CHECKED_OBSERVATIONS = 256

Observations = NDArray[np.float32]


class ServedPolicy(tf.Module):  # type: ignore[misc]
    """The policy in TensorFlow: raw observation in servers in, clipped mean action out.

    Its weights are native variables. Keras models inside, or traced from outside, convert to a
    LiteRT file without weights and without an error. The nets of the ensemble are one net: their
    first layers side by side, their second ones as blocks on a diagonal, their answers averaged.
    """

    def __init__(self, module: ResidualModule) -> None:
        super().__init__()
        self._shape: PolicyShape = module.shape
        self._layout: Layout = module.layout
        nets = module.nets
        members = nets.first.shape[0]
        second = block_diag(*nets.second.detach())  # type: ignore[no-untyped-call]
        last = nets.last.detach().reshape(-1, 1) / members
        weights = (_side_by_side(nets.first), second.numpy(), last.numpy())
        biases = (
            nets.first_bias.detach().reshape(-1).numpy(),
            nets.second_bias.detach().reshape(-1).numpy(),
            nets.last_bias.detach().mean(dim=0).reshape(-1).numpy(),
        )
        self._weights = [tf.Variable(weight) for weight in weights]
        self._biases = [tf.Variable(bias) for bias in biases]
        self._linear = tf.Variable(nets.linear.detach().mean(dim=0).numpy())

    def answers(self, observation: Any) -> Any:
        """`ResidualModule.actions` again: observations ``(batch, n)`` to actions ``(batch, 1)``."""
        shape = self._shape
        features, last, unit = self._features(observation)
        signal = features
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            signal = signal @ weight + bias
            signal = signal * tf.sigmoid(signal)
        residual = signal @ self._weights[-1] + self._biases[-1] + features @ self._linear
        action = (last + unit * residual) / shape.action_factor
        return tf.clip_by_value(action, shape.lowest_action, shape.highest_action)

    def _features(self, observation: Any) -> tuple[Any, Any, Any]:
        """`ResidualModule.features` again."""
        plan = self._layout
        is_there = tf.equal(observation, observation)
        there = tf.cast(is_there, tf.float32)
        known = tf.where(is_there, observation, tf.zeros_like(observation))
        last = known[:, plan.last : plan.last + 1]
        unit, level = self._local_unit(known, there, last)
        of, origin = _at(plan.differences, 0), _at(plan.differences, 1)
        gaps = _pick(known, of) - _pick(known, origin)
        gaps = gaps * _pick(there, of) * _pick(there, origin) / unit
        parts = [gaps]
        if plan.spreads:
            parts.append(_pick(known, plan.spreads) / unit)
        parts = [tf.clip_by_value(tf.concat(parts, axis=1), -LIMIT, LIMIT)]
        parts.append(tf.math.log(unit / tf.maximum(level, SMALLEST_UNIT)))
        if plan.phases:
            field = _at(plan.phases, 0)
            turns = tf.constant([_at(plan.phases, 1)], dtype=tf.float32)
            angle = _pick(known, field) * (2 * math.pi * turns)
            parts += [wave(angle) * _pick(there, field) for wave in (tf.sin, tf.cos)]
        if plan.flags:
            parts.append(1.0 - _pick(there, plan.flags))
        return tf.concat(parts, axis=1), last, unit

    def _local_unit(self, known: Any, there: Any, last: Any) -> tuple[Any, Any]:
        """`ResidualModule._local_unit` again."""
        plan = self._layout
        if plan.average is None or plan.spread is None:
            window = _pick(known, plan.window)
            level = tf.reduce_mean(window, axis=1, keepdims=True)
            changes = window[:, 1:] - window[:, :-1]
            move = tf.sqrt(tf.reduce_mean(changes * changes, axis=1, keepdims=True))
            has_move = tf.ones_like(move)
        else:
            averaged = there[:, plan.average : plan.average + 1]
            has_move = there[:, plan.spread : plan.spread + 1]
            average = known[:, plan.average : plan.average + 1]
            level = averaged * average + (1 - averaged) * last
            move = known[:, plan.spread : plan.spread + 1]
        by_level = USUAL_MOVE * level
        walk = has_move * move * math.sqrt(self._shape.lead_steps) + (1 - has_move) * by_level
        return tf.maximum(0.5 * by_level + 0.5 * walk, SMALLEST_UNIT), level


def _side_by_side(weights: Tensor) -> NDArray[np.float32]:
    """``(members, inputs, outputs)`` as ``(inputs, members * outputs)``."""
    wide: NDArray[np.float32] = weights.detach().permute(1, 0, 2).flatten(1).numpy()
    return wide


def _at(pairs: Sequence[tuple[int, int]], which: int) -> list[int]:
    return [pair[which] for pair in pairs]


def _pick(values: Any, columns: Sequence[int]) -> Any:
    return tf.gather(values, list(columns), axis=1)


class Exported(tf.Module):  # type: ignore[misc]
    """The graphs of a policy's experts, side by side."""

    def __init__(self, graphs: Sequence[Any], prior: Sequence[float]) -> None:
        super().__init__()
        self._graphs = list(graphs)
        self._prior = tf.constant([prior], dtype=tf.float32)

    def answers(self, observation: Any) -> dict[str, Any]:
        """Observations ``(batch, n)`` to each expert's action, ``(batch, experts)``."""
        return {OUTPUT: tf.concat([graph.answers(observation) for graph in self._graphs], axis=1)}

    def decide(self, observation: Any) -> dict[str, Any]:
        """Observations ``(batch, n)`` to actions ``(batch, 1)``, before anything is known."""
        answers = self.answers(observation)[OUTPUT]
        return {OUTPUT: tf.reduce_sum(answers * self._prior, axis=1, keepdims=True)}


def export(policy: Blend | ResidualModule | ServedRule, folder: Path) -> None:
    """Write a policy's `tf-model/00000001` and `policy.tflite` into an artefact's folder.

    The SavedModel gives its action, for hosts that know nothing of what comes of it; the LiteRT
    file gives its experts' actions, for the services.
    """
    if isinstance(policy, Blend):
        graphs = [ServedPolicy(policy.module), *map(RuleGraph, policy.rules.values())]
    elif isinstance(policy, ServedRule):
        graphs = [RuleGraph(policy)]
    else:
        graphs = [ServedPolicy(policy)]
    exported = Exported(graphs, prior_of(policy))
    size = len(policy.fields)
    many = tf.TensorSpec([None, size], tf.float32, name=INPUT)
    decide = tf.function(exported.decide).get_concrete_function(many)
    saved_model = folder / SAVED_MODEL
    saved_model.parent.mkdir(parents=True, exist_ok=True)
    tf.saved_model.save(exported, str(saved_model), signatures={"serving_default": decide})
    one = tf.TensorSpec([1, size], tf.float32, name=INPUT)
    answers = tf.function(exported.answers).get_concrete_function(one)
    lite = tf.lite.TFLiteConverter.from_concrete_functions([answers], exported).convert()
    (folder / LITERT_MODEL).write_bytes(lite)


def check_agreement(
    policy: BatchPolicy, folder: Path, parameters: FleetParameters, rng: np.random.Generator
) -> float:
    """Largest difference between a policy and the two files, read back, in units of the action.

    Raises `PolicyDisagrees` above `TOLERANCE`, or when a form does not answer at all.
    """
    observations = random_observations(policy.fields, parameters, rng)
    answers = policy.actions(observations)
    forms = {
        "SavedModel": (run_saved_model, answers @ np.array(prior_of(policy))[:, np.newaxis]),
        "LiteRT": (run_litert, answers),
    }
    largest = 0.0
    for name, (run, expected) in forms.items():
        difference = _difference(name, run, folder, observations, expected)
        # Not `>`: a difference that is not a number is none that agrees.
        if not difference <= TOLERANCE:
            raise PolicyDisagrees(
                f"{name} and the policy differ by {difference:g} in units of the action, at most "
                f"{TOLERANCE:g} is allowed: the version is not published"
            )
        largest = max(largest, difference)
    return largest


def random_observations(
    fields: Sequence[str], parameters: FleetParameters, rng: np.random.Generator
) -> Observations:
    """Observations all over the fleet's limits: some jump, some stay near a level, some lack much.

    In every other one half of the fields that may be NaN are.
    """
    low, high = parameters.min_servers, parameters.max_servers
    always_there = notebook_fields(parameters.history_len)
    size = (CHECKED_OBSERVATIONS // 2, len(fields))
    anywhere = rng.uniform(low, high, size)
    level = rng.uniform(low, high, (size[0], 1))
    near = np.clip(level + rng.normal(0.0, 0.05 * (high - low), size), low, high)
    observations = np.concatenate((anywhere, near))
    for at, field in enumerate(fields):
        if field.startswith("time_"):
            observations[:, at] = rng.uniform(0.0, 1.0, len(observations))
        if field.startswith("change["):
            observations[:, at] = rng.uniform(0.0, 0.1 * (high - low), len(observations))
        if field not in always_there:
            observations[1::2, at][rng.random(len(observations) // 2) < 0.5] = np.nan
    return observations.astype(np.float32)


def run_saved_model(folder: Path, observations: Observations) -> Observations:
    """Actions of the SavedModel on disk, ``(batch, n)`` to ``(batch, 1)``."""
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    answer = loaded.signatures["serving_default"](**{INPUT: tf.constant(observations)})
    actions: Observations = answer[OUTPUT].numpy()
    return actions


def run_litert(folder: Path, observations: Observations) -> Observations:
    """The experts' actions in the LiteRT file, one observation at a time, as the services do."""
    content = (folder / LITERT_MODEL).read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    actions = []
    for observation in observations:
        interpreter.set_tensor(source, observation[np.newaxis])
        interpreter.invoke()
        actions.append(interpreter.get_tensor(result)[0].copy())
    return np.array(actions, dtype=np.float32)


def _difference(
    name: str,
    run: Callable[[Path, Observations], Observations],
    folder: Path,
    observations: Observations,
    expected: Observations,
) -> float:
    try:
        actions = run(folder, observations)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise PolicyDisagrees(
            f"{name} can't be run, the version is not published: {error}"
        ) from error
    if actions.shape != expected.shape:
        raise PolicyDisagrees(
            f"{name} answers with shape {actions.shape} and torch with {expected.shape}: "
            "the version is not published"
        )
    return float(np.max(np.abs(actions - expected)))
