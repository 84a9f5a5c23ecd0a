"""What a fleet's learning ends in: its nets, and beside them a rule that no regime leads astray.

Nets know more, and are surer of it than they should be when the game changes. The seasonal rule,
tuned on the same history, is weighed against them by what both turn out to meet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.module import ResidualModule
from services.trainer.rules import SEASONAL, ServedRule
from shared.core.observation import History
from shared.core.parameters import FleetParameters
from shared.core.tuning import tune

OF_NETS = 0.8
"""What the nets count for at first."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Two experts over the same observation."""

    module: ResidualModule
    rule: ServedRule

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's numbers."""
        return self.module.fields

    @property
    def experts(self) -> dict[str, float]:
        """What each answer of `decide` is, and counts for at first."""
        return {"nets": OF_NETS, f"rule:{SEASONAL.name}": 1.0 - OF_NETS}

    def decide(self, observations: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Actions ``(rows, 2)`` for observations ``(rows, fields)``."""
        return np.concatenate(
            (self.module.decide(observations), self.rule.decide(observations)), axis=1
        )


def with_rule(module: ResidualModule, rule: ServedRule | None) -> Blend | ResidualModule:
    """What serves of a module and the rule beside it, if there is one."""
    return module if rule is None else Blend(module, rule)


def rule_beside(training: History, parameters: FleetParameters) -> ServedRule | None:
    """The rule, tuned on demand within the fleet's limits; None where its fields are not seen."""
    return ServedRule.of(tune(SEASONAL, training, parameters), parameters)
