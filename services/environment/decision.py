"""A policy's decision at a step: its action, the observation and the experts' actions."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shared.core.adaptation import FRESH, Adaptation, adapt, average
from shared.core.fields import from_notebook, notebook_fields
from shared.core.history import History
from shared.core.observation import Encoder
from shared.core.parameters import FleetParameters
from shared.core.replay import prior_of
from shared.messages import Behaviour, Fallback
from shared.policies.runtime import Policy, RulePolicy, experts_actions


@lru_cache(maxsize=64)
def encoder_of(fields: tuple[str, ...], lead_steps: int) -> Encoder:
    """One encoder for all fleets whose policies have the same observation."""
    return Encoder(fields, lead_steps)


class PolicyDecision(NamedTuple):
    """An action, and how it came about."""

    action: float
    version: str
    fallback: Fallback | None = None
    behaviour: Behaviour | None = None
    adaptation: Adaptation = FRESH
    fields: tuple[str, ...] = ()
    seen: Sequence[float] = ()
    """The observation, by `fields`; NaN where history is too short."""
    experts_actions: tuple[float, ...] = ()
    """None while a target is held."""
    prior: tuple[float, ...] = ()
    """The experts' prior weights."""


def decide(
    policy: Policy,
    observation: tuple[float, ...],
    history: History,
    parameters: FleetParameters,
    draw: float | None = None,
    known: Adaptation = FRESH,
    demand: float = 0.0,
) -> PolicyDecision:
    """A policy's decision, or the rule's where the policy's action is not finite.

    `observation` is the notebook's, in servers; further fields are built from `history`. `known` is
    the policy's adaptation before `demand`, in servers. With a standard normal `draw` the action is
    sampled, for exploration, and nothing is adapted, since the trainer needs the distribution.
    """
    seen = _seen_by(policy, observation, history, parameters)
    actions = experts_actions(policy, seen)
    if not all(map(math.isfinite, actions)):
        policy, known, seen = RulePolicy(parameters), FRESH, observation
        actions = experts_actions(policy, seen)
    prior = prior_of(policy)
    fallback: Fallback | None = None if policy.learnt else "no_policy"
    adaptation, behaviour = FRESH, None
    if draw is None or not policy.exploration:
        adaptation, action = adapt(known, demand, actions, prior, parameters)
    else:
        behaviour = (average(actions, prior), policy.exploration)
        action = behaviour[0] + draw * policy.exploration
    return PolicyDecision(
        action,
        policy.version,
        fallback,
        behaviour,
        adaptation,
        policy.fields,
        seen,
        actions,
        prior,
    )


def _seen_by(
    policy: Policy,
    observation: tuple[float, ...],
    history: History,
    parameters: FleetParameters,
) -> Sequence[float]:
    """The policy's observation, for the lead time that it plans for.

    Without any history, only the notebook's fields are known.
    """
    notebook = notebook_fields(parameters.history_len)
    if policy.fields == notebook:
        return observation
    if not len(history.times) or set(policy.fields) <= set(notebook):
        return from_notebook(observation, policy.fields)
    encoder = encoder_of(policy.fields, policy.lead_steps)
    newest = np.array([len(history.times) - 1])
    targets = np.array([observation[parameters.history_len :]])
    seen: list[float] = encoder.observations(encoder.encode(history, newest), targets)[0].tolist()
    return seen
