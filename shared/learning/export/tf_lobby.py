"""A policy of the lobby's dynamics in TensorFlow: its forecasts and its recommended target."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from shared.core.forecasts import (
    HORIZONS,
    LEAST_UNIT,
    LEVELS,
    UNIT_HORIZON,
    UNIT_OF_DEMAND,
    logit,
)
from shared.core.lead_evidence import PRIOR_STEPS
from shared.core.lead_process import USUAL_LEAD
from shared.core.lobby import ROUNDING
from shared.learning.export.tf_network import ServedEnsemble
from shared.learning.lobby.policy import LobbyPolicy
from shared.learning.models.features import FORECAST, OUTPUT
from shared.learning.models.quantile_nets import HEADS, SAMPLE_SPEC

_LOGITS = logit(np.array(LEVELS)).tolist()


class ServedLobbyPolicy(tf.Module):  # type: ignore[misc]
    """`LobbyPolicy` as a TensorFlow module with the outputs forecast and action."""

    def __init__(self, policy: LobbyPolicy) -> None:
        super().__init__()
        nets = policy.nets
        self._ensemble = ServedEnsemble(nets.nets, nets.layout, SAMPLE_SPEC.lead_steps)
        self._scales = tf.constant([np.repeat(HEADS.scales, len(LEVELS))], dtype=tf.float32)
        self._numbers = dict(policy.numbers)
        self._parameters = policy.parameters
        self._last = policy.fields.index("demand[-1]")

    def decide(self, observation: Any) -> dict[str, Any]:
        """Maps observations ``(batch, n)`` to actions and forecasts.

        Actions are recommended targets, ``(batch, 1)``, in units of `action_factor` servers.
        Forecasts are ``(batch, horizons * levels)`` in servers; the levels of a horizon are
        adjacent and ascending.
        """
        mean, last, unit = self._ensemble.outputs(observation[:, : len(SAMPLE_SPEC.fields)])
        flat = tf.maximum(last + unit * self._scales * mean, 0.0)
        quantiles = tf.sort(tf.reshape(flat, (-1, len(HORIZONS), len(LEVELS))), axis=-1)
        told = self._told(quantiles, observation)
        forecasts = tf.reshape(quantiles, (-1, len(HORIZONS) * len(LEVELS)))
        return {OUTPUT: told / self._parameters.action_factor, FORECAST: forecasts}

    def _told(self, quantiles: Any, observation: Any) -> Any:
        """Recommended targets in servers, ``(batch, 1)``, as `told_of` computes them.

        The steps are those of `from_targets`, `BandRule.decide`, `whole` and `act`.
        """
        numbers, parameters = self._numbers, self._parameters
        low, high = parameters.min_servers, parameters.max_servers
        demand = observation[:, self._last : self._last + 1]
        targets = observation[:, -parameters.history_len :]
        targets = tf.where(tf.equal(targets, targets), targets, low * tf.ones_like(targets))
        up, position, oldest = _state(targets, parameters.history_len)
        busy = tf.minimum(up, demand)
        waiting = numbers["waiting"] * (demand - busy)
        prior = PRIOR_STEPS * parameters.history_len / USUAL_LEAD
        steps = tf.maximum(prior, numbers["oldest"] * oldest)
        by_lead = tf.math.log(tf.maximum(steps, 1.0) / PRIOR_STEPS)
        horizon = numbers["horizon"] + numbers["horizon_per_lead"] * steps
        level = numbers["level"] + numbers["level_by_lead"] * by_lead
        buffer = numbers["buffer"] + numbers["buffer_by_lead"] * by_lead
        spread = quantiles[:, UNIT_HORIZON, -1:] - quantiles[:, UNIT_HORIZON, :1]
        unit = 0.5 * spread + UNIT_OF_DEMAND * demand + LEAST_UNIT
        wanted = _at(quantiles, horizon, level) + buffer * unit + waiting
        nearer = tf.maximum(numbers["keep_horizon"] * horizon, 1.0)
        quantile = level + numbers["keep_level"] + numbers["keep_level_by_lead"] * by_lead
        needed = (
            _at(quantiles, nearer, quantile) + (buffer + numbers["keep_buffer"]) * unit + waiting
        )
        # There is no earlier keep level: it decays from 0.
        kept = tf.maximum(needed, needed / (1.0 + numbers["keep_steps"]))
        raise_level = tf.clip_by_value(tf.math.ceil(wanted), low, high)
        keep_level = tf.maximum(tf.math.ceil(kept), raise_level)
        keep_level = tf.clip_by_value(keep_level, low, high)
        launched = tf.maximum(raise_level - position, 0.0)
        removed = tf.minimum(tf.maximum(position - keep_level, 0.0), tf.floor(up - busy + ROUNDING))
        return position + launched - removed


def _state(targets: Any, history_len: int) -> tuple[Any, Any, Any]:
    """Returns (up, position, age of the oldest start), ``(batch, 1)`` each; as `from_targets`."""
    up = highest = targets[:, :1]
    oldest = tf.zeros_like(up)
    for at in range(1, history_len):
        newer = targets[:, at : at + 1]
        rises = tf.cast(newer > highest, tf.float32)
        oldest = tf.maximum(oldest, rises * float(history_len - at))
        highest = tf.maximum(highest, newer)
    return up, highest, oldest


def _at(quantiles: Any, horizon: Any, level: Any) -> Any:
    """`Forecasts.at` as a weighted sum over all horizons and levels, ``(batch, 1)``."""
    of_horizons = tf.expand_dims(_weights(horizon, HORIZONS), axis=2)
    of_levels = tf.expand_dims(_weights(level, _LOGITS), axis=1)
    weighted = quantiles * of_horizons * of_levels
    return tf.reduce_sum(tf.reduce_sum(weighted, axis=2), axis=1, keepdims=True)


def _weights(value: Any, grid: Sequence[float]) -> Any:
    """Weights of linear interpolation between the points of a grid, ``(batch, len(grid))``."""
    at = tf.zeros_like(value)
    for lower, upper in pairwise(grid):
        at += tf.clip_by_value((value - lower) / (upper - lower), 0.0, 1.0)
    places = tf.constant([list(range(len(grid)))], dtype=tf.float32)
    return tf.maximum(1.0 - tf.abs(at - places), 0.0)
