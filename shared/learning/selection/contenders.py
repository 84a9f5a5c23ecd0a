"""Model selection: the contenders of a fleet, the gate's decision, and the policy to deploy.

The platform's training jobs and the commands `train` and `backtest` share it: only the kept
demand, the incumbent and the scorer differ.

The kept demand is one stretch of time, so a rule may win on it by chance. It is deployed alone
where the candidate costs far more, and otherwise in a mixture with the candidate, whose weights
follow the outcomes (`shared.core.adaptation`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared.core.arrays import IntArray
from shared.core.history import History, within_limits
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy
from shared.core.tuning import tune
from shared.learning.models.mixture import Trained, with_winner
from shared.learning.models.rule_policy import SERVABLE_RULES, TunedRulePolicy, name_of
from shared.learning.selection.gate import CANDIDATE, GateDecision, Scorer, select, takes_over
from shared.learning.selection.live import Live
from shared.recorded_demand import Recorded

NO_GOOD = 2.0
"""Factor of a winning rule's cost above which the candidate is not mixed with it. On 68 excerpts of
the training parts of real traces, the candidate lost on the kept demand of six, by a factor of up
to 1.7; on the demand after that it was cheaper in four of them and equal in one. On synthetic noise
the winning rule stayed better, by a tenth."""

PRETRAINED = "general"
"""The pretrained policy's name, as stored: the incumbent of a fleet without a champion, and a
contender for all others."""

Deployed = Trained | TunedRulePolicy
"""A policy that is to be published as a version."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The contenders that every fleet has, the demand kept from them, and the scorer."""

    history: History
    """All of the recorded demand, on which a winning rule is tuned again."""
    rows: IntArray
    """The decisions on kept demand, by the row after which they are made."""
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
        """A selection on the decisions after `rows` of `history`; rules are tuned on `training`."""
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
        """The gate's decision among candidate, `versions` of the store, rules, pretrained policy.

        Without a champion the pretrained policy is the incumbent, where `versions` are given.
        """
        contenders: dict[str, BatchPolicy] = {
            CANDIDATE: candidate,
            **(versions or {}),
            **self.rules,
        }
        if self.pretrained is not None:
            contenders[PRETRAINED] = self.pretrained
        incumbent = champion
        if champion is None and versions is not None and self.pretrained is not None:
            incumbent = PRETRAINED
        decision = select(contenders, incumbent, self.scorer, len(self.rows), live)
        return self._beside(decision, candidate, incumbent)

    def deployed(self, decision: GateDecision, trained: Trained) -> Deployed | None:
        """The policy to deploy by a decision; `trained` is the candidate.

        None where the winner is a version in the store.
        """
        if decision.winner == CANDIDATE:
            if decision.beside is None:
                return trained
            return with_winner(trained, decision.beside, self._tuned_to_the_end(decision.beside))
        if decision.winner == PRETRAINED:
            return self.pretrained
        if decision.winner in self.rules:
            return self._tuned_to_the_end(decision.winner)
        return None

    def _beside(
        self, decision: GateDecision, candidate: Trained, incumbent: str | None
    ) -> GateDecision:
        """Where a rule has won: the mixture of candidate and rule, unless the candidate is too bad.

        With an incumbent the mixture itself must be cheaper by the gate's margin.
        """
        rule, costs = decision.winner, decision.costs
        # With the notebook's reward weights are not adapted, so a bad expert would keep its weight.
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
            reason=f"{rule} did better alone, but its mixture with the candidate did not",
        )

    def _tuned_to_the_end(self, rule: str) -> TunedRulePolicy:
        """The rule, tuned again on all demand; unchanged where that gives no servable rule."""
        return tuned_rules(self.history, self.parameters).get(rule, self.rules[rule])


def tuned_rules(training: History, parameters: FleetParameters) -> dict[str, TunedRulePolicy]:
    """Every servable rule, tuned on `training`, by name."""
    clipped = within_limits(training, parameters)
    served = {
        name_of(rule): TunedRulePolicy.of(tune(rule, clipped, parameters), parameters)
        for rule in SERVABLE_RULES
    }
    return {name: rule for name, rule in served.items() if rule is not None}
