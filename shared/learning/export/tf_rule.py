"""A rule in TensorFlow, exported like a trained policy."""

from typing import Any

import numpy as np
import tensorflow as tf

from shared.learning.models.rule_policy import TunedRulePolicy


class RuleGraph(tf.Module):  # type: ignore[misc]
    """`TunedRulePolicy.actions` in TensorFlow."""

    def __init__(self, rule: TunedRulePolicy) -> None:
        super().__init__()
        self._rule = rule
        self._factor = tf.Variable(np.float32(rule.factor))
        self._added = tf.Variable(np.float32(rule.added))

    def actions(self, observation: Any) -> Any:
        """Observations ``(batch, fields)`` in servers to actions ``(batch, 1)``."""
        rule, at = self._rule, self._rule.positions

        def field(name: str) -> Any:
            return observation[:, at[name] : at[name] + 1]

        def known(difference: Any, otherwise: Any) -> Any:
            return tf.where(tf.equal(difference, difference), difference, otherwise)

        last = field("demand[-1]")
        none = tf.zeros_like(last)
        target = self._factor * last + self._added
        for name, weight in rule.slopes.items():
            target += weight * known(field(name) - last, none)
        shift = none
        for after, before in reversed(rule.shifts):
            shift = known(field(after) - field(before), shift)
        action = (target + rule.shift_weight * shift) / rule.parameters.action_factor
        return tf.clip_by_value(action, 0.0, rule.parameters.highest_action)
