"""Write a policy as SavedModel and LiteRT."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from shared.core.replay import prior_of
from shared.learning.export.tf_network import ServedPolicy
from shared.learning.export.tf_rule import RuleGraph
from shared.learning.models.features import INPUT, OUTPUT
from shared.learning.models.mixture import Mixture
from shared.learning.models.network import (
    ResidualModule,
)
from shared.learning.models.rule_policy import TunedRulePolicy
from shared.policies.store import LITERT_MODEL, SAVED_MODEL


class Exported(tf.Module):  # type: ignore[misc]
    """The graphs of a policy's experts, as one module."""

    def __init__(self, graphs: Sequence[Any], prior: Sequence[float]) -> None:
        super().__init__()
        self._graphs = list(graphs)
        self._prior = tf.constant([prior], dtype=tf.float32)

    def actions(self, observation: Any) -> dict[str, Any]:
        """Observations ``(batch, n)`` to each expert's action, ``(batch, experts)``."""
        return {OUTPUT: tf.concat([graph.actions(observation) for graph in self._graphs], axis=1)}

    def decide(self, observation: Any) -> dict[str, Any]:
        """Observations ``(batch, n)`` to actions ``(batch, 1)``, by the experts' prior weights."""
        actions = self.actions(observation)[OUTPUT]
        return {OUTPUT: tf.reduce_sum(actions * self._prior, axis=1, keepdims=True)}


def export(policy: Mixture | ResidualModule | TunedRulePolicy, folder: Path) -> None:
    """Write a policy's `tf-model/00000001` and `policy.tflite` into an artefact's folder.

    The SavedModel outputs the policy's action by the prior weights, for hosts that do not adapt;
    the LiteRT file outputs the experts' actions, for the services.
    """
    if isinstance(policy, Mixture):
        graphs = [ServedPolicy(policy.module), *map(RuleGraph, policy.rules.values())]
    elif isinstance(policy, TunedRulePolicy):
        graphs = [RuleGraph(policy)]
    else:
        graphs = [ServedPolicy(policy)]
    exported = Exported(graphs, prior_of(policy))
    write_graph(exported, exported.decide, exported.actions, len(policy.fields), folder)


def write_graph(
    module: tf.Module,
    decide: Callable[[Any], dict[str, Any]],
    actions: Callable[[Any], dict[str, Any]],
    fields: int,
    folder: Path,
) -> None:
    """Write a module's `decide` as SavedModel, for many observations, its `actions` as LiteRT."""
    many = tf.TensorSpec([None, fields], tf.float32, name=INPUT)
    decided = tf.function(decide).get_concrete_function(many)
    saved_model = folder / SAVED_MODEL
    saved_model.parent.mkdir(parents=True, exist_ok=True)
    tf.saved_model.save(module, str(saved_model), signatures={"serving_default": decided})
    one = tf.TensorSpec([1, fields], tf.float32, name=INPUT)
    acted = tf.function(actions).get_concrete_function(one)
    lite = tf.lite.TFLiteConverter.from_concrete_functions([acted], module).convert()
    (folder / LITERT_MODEL).write_bytes(lite)
