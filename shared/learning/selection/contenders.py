"""Which policy serves: the contenders that every fleet has, and what comes of the gate's decision.

One selection for the platform's training jobs and for `train` and `backtest`: only the demand that
is kept, the incumbent and the scorer differ.

The kept demand is one stretch, so a rule that wins it may be no more than lucky. It serves alone
where the candidate costs far more, and otherwise beside it: both are experts of one mixture, whose
weights follow what they turn out to meet (`shared.core.adaptation`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shared.core.arrays import IntArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy
from shared.core.tuning import tune
from shared.learning.models.mixture import Trained, with_winner
from shared.learning.models.rule_policy import SERVABLE_RULES, TunedRulePolicy, name_of
from shared.learning.selection.gate import CANDIDATE, GateDecision, Scorer, select, takes_over
from shared.learning.selection.live import Live
from shared.recorded_demand import Recorded

NO_GOOD = 2.0
"""Times a winning rule's cost, beyond which the candidate does not serve beside it. Of 68 pieces of
real traces' training parts, the candidate lost the kept demand of six, by up to 1.7 times; on what
came after, it was cheaper in four, as good in one. On synthetic noise the rule that had won stayed
the better one, by a tenth."""

GENERAL = "general"
"""The pretrained policy: the incumbent of a fleet without a champion, a contender of all others."""

Deployed = Trained | TunedRulePolicy
"""What the store may have no version of yet."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The contenders that every fleet has, the demand that is kept from them, and its scorer."""

    history: History
    """All of the recorded demand: a rule that wins is tuned again on it."""
    rows: IntArray
    """Samples on the kept demand, by the row after which they are made."""
    parameters: FleetParameters
    scorer: Scorer
    rules: Mapping[str, TunedRulePolicy]
    pretrained: Trained | None

    @classmethod
    def of(
        cls,
        training: Recorded,
        history: History,
        rows: IntArray,
        parameters: FleetParameters,
        scorer: Scorer,
        pretrained: Trained | None,
    ) -> "Selection":
        """On decisions after `rows` of a history, which `training` is the part before of.

        Rules are tuned on `training`.
        """
        return cls(
            history,
            rows,
            parameters,
            scorer,
            tuned_rules(training.history, parameters) if len(rows) else {},
            pretrained,
        )

    def decide(
        self,
        candidate: Trained,
        versions: Mapping[str, BatchPolicy] | None = None,
        champion: str | None = None,
        live: Live | None = None,
    ) -> GateDecision:
        """Who wins among candidate, `versions` of the store, rules and the pretrained policy.

        Without a champion the pretrained policy is the incumbent, where `versions` are given.
        """
        contenders: dict[str, BatchPolicy] = {
            CANDIDATE: candidate,
            **(versions or {}),
            **self.rules,
        }
        if self.pretrained is not None:
            contenders[GENERAL] = self.pretrained
        incumbent = champion
        if champion is None and versions is not None and self.pretrained is not None:
            incumbent = GENERAL
        decision = select(contenders, incumbent, self.scorer, len(self.rows), live)
        return self._beside(decision, candidate, incumbent)

    def deployed(self, decision: GateDecision, trained: Trained) -> Deployed | None:
        """What serves by a decision, `trained` being the candidate; None: the store's version."""
        if decision.winner == CANDIDATE:
            if decision.beside is None:
                return trained
            return with_winner(trained, decision.beside, self._tuned_to_the_end(decision.beside))
        if decision.winner == GENERAL:
            return self.pretrained
        if decision.winner in self.rules:
            return self._tuned_to_the_end(decision.winner)
        return None

    def _beside(
        self, decision: GateDecision, candidate: Trained, incumbent: str | None
    ) -> GateDecision:
        """Where a rule has won: the mixture of candidate and rule, unless the candidate is no good.

        With an incumbent the mixture itself has to be that much cheaper.
        """
        rule, costs = decision.winner, decision.costs
        # With the notebook's reward nothing adapts, so nothing would put a bad expert right.
        if (
            rule not in self.rules
            or CANDIDATE not in costs
            or self.parameters.reward != "asymmetric"
            or costs[CANDIDATE] > NO_GOOD * costs[rule]
        ):
            return decision
        mixed = replace(decision, winner=CANDIDATE, beside=rule)
        if incumbent is None or incumbent not in costs or decision.demoted:
            return mixed
        cost = self.scorer(with_winner(candidate, rule, self.rules[rule]))
        costs = {**costs, f"{CANDIDATE} beside {rule}": cost}
        if takes_over(cost, costs[incumbent]):
            return replace(mixed, costs=costs)
        return replace(
            decision,
            winner=incumbent,
            costs=costs,
            reason=f"{rule} did better alone, but the candidate beside it did not",
        )

    def _tuned_to_the_end(self, rule: str) -> TunedRulePolicy:
        """The rule tuned again, with the newest demand; as it was where that has no such rule."""
        return tuned_rules(self.history, self.parameters).get(rule, self.rules[rule])


def tuned_rules(training: History, parameters: FleetParameters) -> dict[str, TunedRulePolicy]:
    """Every rule that can serve, tuned on `training`, by its name."""
    low, high = parameters.min_servers, parameters.max_servers
    clipped = History(training.times, np.clip(training.demands, low, high), training.step_seconds)
    served = {
        name_of(rule): TunedRulePolicy.of(tune(rule, clipped, parameters), parameters)
        for rule in SERVABLE_RULES
    }
    return {name: rule for name, rule in served.items() if rule is not None}
