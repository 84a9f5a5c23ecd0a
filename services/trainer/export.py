"""Write a trained policy as SavedModel and LiteRT, and see that all forms give one answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from torch import nn

from services.trainer.module import PolicyShape, ResidualModule
from shared.core.parameters import FleetParameters
from shared.errors import PolicyDisagrees
from shared.policy_store import LITERT_MODEL, SAVED_MODEL

INPUT = "observation"
OUTPUT = "policy"
TOLERANCE = 1e-5
"""Largest difference between two forms of a policy, in units of the action."""
CHECKED_OBSERVATIONS = 256

Observations = NDArray[np.float32]


class ServedPolicy(tf.Module):  # type: ignore[misc]
    """The policy in TensorFlow: raw observation in servers in, clipped mean action out.

    Its weights are native variables. Keras models inside, or traced from outside, convert to a
    LiteRT file without weights and without an error.
    """

    def __init__(self, module: ResidualModule) -> None:
        super().__init__()
        self._shape: PolicyShape = module.shape
        linear = [layer for layer in module.net if isinstance(layer, nn.Linear)]
        self._weights = [tf.Variable(layer.weight.detach().numpy().T) for layer in linear]
        self._biases = [tf.Variable(layer.bias.detach().numpy()) for layer in linear]

    def decide(self, observation: Any) -> dict[str, Any]:
        """`ResidualModule.decide` again: observations ``(batch, n)`` to actions ``(batch, 1)``."""
        shape = self._shape
        at = shape.history_len - 1
        last = observation[:, at : at + 1]
        change = (observation - last) / shape.unit
        level = last / shape.action_factor
        signal = tf.concat((change[:, :at], level, change[:, at + 1 :]), axis=1)
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            signal = tf.tanh(signal @ weight + bias)
        residual = signal @ self._weights[-1] + self._biases[-1]
        action = (last + shape.unit * residual) / shape.action_factor
        return {OUTPUT: tf.clip_by_value(action, shape.lowest_action, shape.highest_action)}


def export(module: ResidualModule, folder: Path) -> None:
    """Write `tf-model/00000001` and `policy.tflite` into an artefact's folder."""
    policy = ServedPolicy(module)
    decide = tf.function(policy.decide)
    inputs = module.shape.observation_len
    many = decide.get_concrete_function(tf.TensorSpec([None, inputs], tf.float32, name=INPUT))
    one = decide.get_concrete_function(tf.TensorSpec([1, inputs], tf.float32, name=INPUT))
    saved_model = folder / SAVED_MODEL
    saved_model.parent.mkdir(parents=True, exist_ok=True)
    tf.saved_model.save(policy, str(saved_model), signatures={"serving_default": many})
    lite = tf.lite.TFLiteConverter.from_concrete_functions([one], policy).convert()
    (folder / LITERT_MODEL).write_bytes(lite)


def check_agreement(
    module: ResidualModule, folder: Path, parameters: FleetParameters, rng: np.random.Generator
) -> float:
    """Largest difference between torch and the two files, read back, in units of the action.

    Raises `PolicyDisagrees` above `TOLERANCE`, or when a form does not answer at all.
    """
    observations = random_observations(parameters, rng)
    expected = module.decide(observations)
    largest = 0.0
    forms = {"SavedModel": run_saved_model, "LiteRT": run_litert}
    for name, run in forms.items():
        difference = _difference(name, run, folder, observations, expected)
        # Not `>`: a difference that is not a number is none that agrees.
        if not difference <= TOLERANCE:
            raise PolicyDisagrees(
                f"{name} and torch differ by {difference:g} in units of the action, at most "
                f"{TOLERANCE:g} is allowed: the version is not published"
            )
        largest = max(largest, difference)
    return largest


def random_observations(parameters: FleetParameters, rng: np.random.Generator) -> Observations:
    """Observations all over the fleet's limits: some jump, some stay near a level."""
    low, high = parameters.min_servers, parameters.max_servers
    size = (CHECKED_OBSERVATIONS // 2, 2 * parameters.history_len)
    anywhere = rng.uniform(low, high, size)
    level = rng.uniform(low, high, (size[0], 1))
    near = np.clip(level + rng.normal(0.0, 0.05 * (high - low), size), low, high)
    return np.concatenate((anywhere, near)).astype(np.float32)


def run_saved_model(folder: Path, observations: Observations) -> Observations:
    """Actions of the SavedModel on disk, ``(batch, n)`` to ``(batch, 1)``."""
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    answer = loaded.signatures["serving_default"](**{INPUT: tf.constant(observations)})
    actions: Observations = answer[OUTPUT].numpy()
    return actions


def run_litert(folder: Path, observations: Observations) -> Observations:
    """Actions of the LiteRT file on disk, one observation at a time, as the services run it."""
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
