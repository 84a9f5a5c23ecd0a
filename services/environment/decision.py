"""What the policy of a fleet decides at a step, and what it saw and answered."""

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
    """One encoder for all the fleets whose policies see the same."""
    return Encoder(fields, lead_steps)


class Choice(NamedTuple):
    """An action, and how it came about."""

    action: float
    version: str
    fallback: Fallback | None = None
    behaviour: Behaviour | None = None
    adaptation: Adaptation = FRESH
    fields: tuple[str, ...] = ()
    seen: Sequence[float] = ()
    """By `fields`; NaN where history does not reach."""
    answers: tuple[float, ...] = ()
    """The experts' actions; none while a target is held."""
    prior: tuple[float, ...] = ()


def decide(
    policy: Policy,
    observation: tuple[float, ...],
    history: History,
    parameters: FleetParameters,
    draw: float | None = None,
    known: Adaptation = FRESH,
    demand: float = 0.0,
) -> Choice:
    """What a policy decides; the rule does where it gives no number.

    `observation` is the notebook's; what a policy sees beside it comes from `history`. `known`
    is what has been learnt of the policy before `demand` was. A fleet that explores does not
    adapt: the trainer has to know what an action was drawn from.
    """
    seen = _seen_by(policy, observation, history, parameters)
    answers = experts_actions(policy, seen)
    if not all(map(math.isfinite, answers)):
        policy, known, seen = RulePolicy(parameters), FRESH, observation
        answers = experts_actions(policy, seen)
    prior = prior_of(policy)
    fallback: Fallback | None = None if policy.learnt else "no_policy"
    adaptation, behaviour = FRESH, None
    if draw is None or not policy.exploration:
        adaptation, action = adapt(known, demand, answers, prior, parameters)
    else:
        behaviour = (average(answers, prior), policy.exploration)
        action = behaviour[0] + draw * policy.exploration
    return Choice(
        action,
        policy.version,
        fallback,
        behaviour,
        adaptation,
        policy.fields,
        seen,
        answers,
        prior,
    )


def _seen_by(
    policy: Policy,
    observation: tuple[float, ...],
    history: History,
    parameters: FleetParameters,
) -> Sequence[float]:
    """The policy's own fields, for the lead time that it plans for.

    Without any history, what the notebook's numbers tell of them.
    """
    told = notebook_fields(parameters.history_len)
    if policy.fields == told:
        return observation
    if not len(history.times) or set(policy.fields) <= set(told):
        return from_notebook(observation, policy.fields)
    encoder = encoder_of(policy.fields, policy.lead_steps)
    newest = np.array([len(history.times) - 1])
    targets = np.array([observation[parameters.history_len :]])
    seen: list[float] = encoder.observations(encoder.encode(history, newest), targets)[0].tolist()
    return seen
