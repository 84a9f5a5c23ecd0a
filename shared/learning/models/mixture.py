"""Mixtures of experts: a fleet's nets and rules that were tuned on the same history.

Nets fit the past better, and are overconfident when demand changes its pattern; rules are robust.
`shared.core.adaptation` weights the experts by their outcomes while the policy serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.tuning import SEASONAL, tune
from shared.learning.models.rule_policy import TunedRulePolicy, name_of

if TYPE_CHECKING:
    from shared.learning.models.network import ResidualModule

NETS = "nets"
OF_NETS = 0.8
"""Prior weight of the nets in a mixture with the seasonal rule."""
OF_WINNER = 0.5
"""Prior weight of a rule that cost less than such a mixture on held-out demand."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """A policy whose experts are nets and rules over the same observation."""

    module: "ResidualModule"
    rules: Mapping[str, TunedRulePolicy]
    """By name."""
    experts: Mapping[str, float]
    """Prior weights by expert, in the order of `actions`: the nets, then the rules."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's fields."""
        return self.module.fields

    @property
    def lead_steps(self) -> int:
        """Steps from the newest demand to the one that it plans for."""
        return self.module.lead_steps

    reads_targets = False

    def actions(self, observations: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Actions ``(rows, experts)`` for observations ``(rows, fields)``."""
        of_rules = (rule.actions(observations) for rule in self.rules.values())
        return np.concatenate((self.module.actions(observations), *of_rules), axis=1)


Trained = Union["ResidualModule", Mixture]
"""A trained policy."""


def with_rule(module: "ResidualModule", rule: TunedRulePolicy | None) -> Trained:
    """The mixture of a module and a rule; the module alone without one."""
    if rule is None:
        return module
    name = name_of(SEASONAL)
    return Mixture(module, {name: rule}, {NETS: OF_NETS, name: 1.0 - OF_NETS})


def with_winner(policy: Trained, name: str, rule: TunedRulePolicy) -> Mixture:
    """A policy mixed with a rule that cost less on held-out demand."""
    if not isinstance(policy, Mixture):
        policy = Mixture(policy, {}, {NETS: 1.0})
    experts = {other: (1.0 - OF_WINNER) * weight for other, weight in policy.experts.items()}
    experts[name] = experts.get(name, 0.0) + OF_WINNER
    return Mixture(policy.module, {**policy.rules, name: rule}, experts)


def rule_expert(training: History, parameters: FleetParameters) -> TunedRulePolicy | None:
    """The seasonal rule, tuned on demand within the fleet's limits.

    None where the observation lacks its fields.
    """
    return TunedRulePolicy.of(tune(SEASONAL, training, parameters), parameters)
