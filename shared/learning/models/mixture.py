"""What a fleet's learning ends in: its nets, and beside them rules that no regime leads astray.

Nets know more, and are surer of it than they should be when the game changes. Rules that were
tuned on the same history are weighed against them by what all of them turn out to meet.
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
"""What the nets count for at first, beside the seasonal rule."""
OF_WINNER = 0.5
"""What a rule counts for at first that did better than these two on demand that was held out."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Nets and rules over the same observation."""

    module: "ResidualModule"
    rules: Mapping[str, TunedRulePolicy]
    """By name."""
    experts: Mapping[str, float]
    """What each answer of `actions` is, and counts for at first: the nets', then the rules'."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's numbers."""
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
"""What training ends in."""


def with_rule(module: "ResidualModule", rule: TunedRulePolicy | None) -> Trained:
    """What serves of a module and the rule beside it, if there is one."""
    if rule is None:
        return module
    name = name_of(SEASONAL)
    return Mixture(module, {name: rule}, {NETS: OF_NETS, name: 1.0 - OF_NETS})


def with_winner(policy: Trained, name: str, rule: TunedRulePolicy) -> Mixture:
    """The same with a rule beside it that did better on held-out demand."""
    if not isinstance(policy, Mixture):
        policy = Mixture(policy, {}, {NETS: 1.0})
    experts = {other: (1.0 - OF_WINNER) * part for other, part in policy.experts.items()}
    experts[name] = experts.get(name, 0.0) + OF_WINNER
    return Mixture(policy.module, {**policy.rules, name: rule}, experts)


def rule_beside(training: History, parameters: FleetParameters) -> TunedRulePolicy | None:
    """The rule, tuned on demand within the fleet's limits; None where its fields are not seen."""
    return TunedRulePolicy.of(tune(SEASONAL, training, parameters), parameters)
