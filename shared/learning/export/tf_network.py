"""The nets in TensorFlow: the same functions as torch's, with native variables."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from torch import Tensor, block_diag

from shared.learning.models.ensemble import LIMIT, SMALLEST_UNIT, TYPICAL_CHANGE, Ensemble
from shared.learning.models.features import FeatureLayout
from shared.learning.models.network import PolicyShape, ResidualModule


class ServedEnsemble(tf.Module):  # type: ignore[misc]
    """Features and ensemble in TensorFlow, merged into one net.

    Its weights are native variables: a Keras model, inside or traced, is converted to a LiteRT file
    without weights, and without an error. The first layers are concatenated, the second ones
    block-diagonal, the outputs averaged.
    """

    def __init__(self, nets: Ensemble, layout: FeatureLayout, lead_steps: int) -> None:
        super().__init__()
        self._layout = layout
        self._lead_steps = lead_steps
        members, _, outputs = nets.last.shape
        second = block_diag(*nets.second.detach())  # type: ignore[no-untyped-call]
        last = nets.last.detach().reshape(-1, outputs) / members
        weights = (_side_by_side(nets.first), second.numpy(), last.numpy())
        biases = (
            nets.first_bias.detach().reshape(-1).numpy(),
            nets.second_bias.detach().reshape(-1).numpy(),
            nets.last_bias.detach().mean(dim=0).reshape(-1).numpy(),
        )
        self._weights = [tf.Variable(weight) for weight in weights]
        self._biases = [tf.Variable(bias) for bias in biases]
        self._linear = tf.Variable(nets.linear.detach().mean(dim=0).numpy())

    def outputs(self, observation: Any) -> tuple[Any, Any, Any]:
        """Of raw observations in servers, ``(batch, n)``: the mean of the nets' outputs.

        ``(batch, outputs)``, in local units; the last demand and the local unit, ``(batch, 1)``.
        """
        features, last, unit = self._features(observation)
        signal = features
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            signal = signal @ weight + bias
            signal = signal * tf.sigmoid(signal)
        mean = signal @ self._weights[-1] + self._biases[-1] + features @ self._linear
        return mean, last, unit

    def _features(self, observation: Any) -> tuple[Any, Any, Any]:
        """As `TorchFeatures`."""
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
            harmonics = tf.constant([_at(plan.phases, 1)], dtype=tf.float32)
            angle = _pick(known, field) * (2 * math.pi * harmonics)
            parts += [wave(angle) * _pick(there, field) for wave in (tf.sin, tf.cos)]
        if plan.flags:
            parts.append(1.0 - _pick(there, plan.flags))
        return tf.concat(parts, axis=1), last, unit

    def _local_unit(self, known: Any, there: Any, last: Any) -> tuple[Any, Any]:
        """As `TorchFeatures._local_unit`."""
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
        by_level = TYPICAL_CHANGE * level
        walk = has_move * move * math.sqrt(self._lead_steps) + (1 - has_move) * by_level
        return tf.maximum(0.5 * by_level + 0.5 * walk, SMALLEST_UNIT), level


class ServedPolicy(tf.Module):  # type: ignore[misc]
    """The policy in TensorFlow. Input: raw observation in servers. Output: clipped mean action."""

    def __init__(self, module: ResidualModule) -> None:
        super().__init__()
        self._shape: PolicyShape = module.shape
        self._ensemble = ServedEnsemble(module.nets, module.layout, module.lead_steps)

    def actions(self, observation: Any) -> Any:
        """As `ResidualModule.actions`: observations ``(batch, n)`` to actions ``(batch, 1)``."""
        shape = self._shape
        residual, last, unit = self._ensemble.outputs(observation)
        action = (last + unit * residual) / shape.action_factor
        return tf.clip_by_value(action, shape.lowest_action, shape.highest_action)


def _side_by_side(weights: Tensor) -> NDArray[np.float32]:
    """Weights ``(members, inputs, outputs)`` reshaped to ``(inputs, members * outputs)``."""
    wide: NDArray[np.float32] = weights.detach().permute(1, 0, 2).flatten(1).numpy()
    return wide


def _at(pairs: Sequence[tuple[int, int]], which: int) -> list[int]:
    return [pair[which] for pair in pairs]


def _pick(values: Any, columns: Sequence[int]) -> Any:
    return tf.gather(values, list(columns), axis=1)
