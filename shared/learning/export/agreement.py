"""Check that the exported files of a policy give the policy's actions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from shared.core.fields import notebook_fields
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy, prior_of
from shared.errors import PolicyDisagrees
from shared.learning.models.features import INPUT, OUTPUT
from shared.library_notices import library_notices_dropped
from shared.policies.store import LITERT_MODEL, SAVED_MODEL

TOLERANCE = 1e-5
"""Largest difference between two forms of a policy, in units of the action."""
CHECKED_OBSERVATIONS = 256

Observations = NDArray[np.float32]


def check_agreement(
    policy: BatchPolicy, folder: Path, parameters: FleetParameters, rng: np.random.Generator
) -> float:
    """Largest difference between a policy and its two files, in units of the action.

    Raises `PolicyDisagrees` above `TOLERANCE`, or when a file can't be run.
    """
    observations = random_observations(policy.fields, parameters, rng)
    actions = policy.actions(observations)
    forms = {
        "SavedModel": (run_saved_model, actions @ np.array(prior_of(policy))[:, np.newaxis]),
        "LiteRT": (run_litert, actions),
    }
    largest = 0.0
    for name, (run, expected) in forms.items():
        difference = _difference(name, run, folder, observations, expected)
        # Not `>`: NaN is a disagreement.
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
    """Random observations within the limits, ``(CHECKED_OBSERVATIONS, fields)``, in servers.

    Half of them are uniform, half near a level. In every other one, half of the fields that may be
    NaN are.
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


def run_saved_model(folder: Path, observations: Observations, output: str = OUTPUT) -> Observations:
    """An output of the SavedModel on disk, for ``(batch, n)``; actions are ``(batch, 1)``."""
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    outputs = loaded.signatures["serving_default"](**{INPUT: tf.constant(observations)})
    found: Observations = outputs[output].numpy()
    return found


def run_litert(folder: Path, observations: Observations, output: str = OUTPUT) -> Observations:
    """An output of the LiteRT file, one observation at a time, as the services do.

    The policy's is the narrowest: the experts' actions.
    """
    content = (folder / LITERT_MODEL).read_bytes()
    with library_notices_dropped():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    outputs = sorted(interpreter.get_output_details(), key=lambda one: one["shape"][1])
    result = outputs[0 if output == OUTPUT else -1]["index"]
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
            f"{name} gives actions of shape {actions.shape} and torch of {expected.shape}: "
            "the version is not published"
        )
    return float(np.max(np.abs(actions - expected)))
