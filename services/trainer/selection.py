"""Which policy serves: contenders are scored on demand that none of them has seen.

One selection for the platform's training jobs and for `train` and `backtest`: only the demand that
is kept, the incumbent and the scorer differ. Demand is exogenous, so what any contender would have
cost on recorded demand is exact.

The kept demand is one stretch, so a rule that wins it may be no more than lucky. It serves alone
where the candidate costs far more, and otherwise beside it: both are experts of one mixture, whose
weights follow what they turn out to meet (`shared.core.adaptation`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from services.trainer.blend import Blend, with_winner
from services.trainer.evaluation import evaluate
from services.trainer.general import general_module
from services.trainer.live import Live
from services.trainer.module import ResidualModule
from services.trainer.rules import SERVED_RULES, ServedRule, name_of
from shared.core.backtest import BatchPolicy, decide
from shared.core.guards import NO_GUARDS, Guards, guarded_series
from shared.core.observation import History, IntArray
from shared.core.parameters import FleetParameters
from shared.core.tuning import tune
from shared.recorded_demand import Recorded

MARGIN = 0.01
"""Part by which a cost must be below the incumbent's to take over: equals don't alternate."""
NO_GOOD = 2.0
"""Times a winning rule's cost, beyond which the candidate does not serve beside it. Of 68 pieces of
real traces' training parts, the candidate lost the kept demand of six, by up to 1.7 times; on what
came after, it was cheaper in four, as good in one. On synthetic noise the rule that had won stayed
the better one, by a tenth."""

CANDIDATE = "candidate"
GENERAL = "general"
"""The pretrained policy: the incumbent of a fleet without a champion, a contender of all others."""

T = TypeVar("T")
Scorer = Callable[[BatchPolicy], float]
"""Mean cost per step of a policy on the kept demand; lower is better, NaN: it can't serve."""
Trained = Blend | ResidualModule
Deployed = Blend | ResidualModule | ServedRule
"""What the store may have no version of yet."""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Who won, and what all contenders cost."""

    winner: str
    costs: dict[str, float]
    """By contender: servers per step on the kept demand; lower is better."""
    steps: int
    """Decisions on the kept demand."""
    live: Live | None = None
    demoted: bool = False
    """The champion would have stayed, had it not lost live."""
    reason: str | None = None
    """Why, where the costs don't say it."""
    beside: str | None = None
    """The rule that serves beside the winning candidate, since it did better."""


def select(
    contenders: Mapping[str, T],
    incumbent: str | None,
    scorer: Callable[[T], float],
    steps: int,
    live: Live | None = None,
) -> GateDecision:
    """Score every contender on `steps` kept decisions; the cheapest wins, of equals the first.

    An incumbent loses only to one that is `MARGIN` cheaper, or when it has lost live: then to the
    cheapest of the others. Without steps to score on, the incumbent stays, or else the candidate
    serves.
    """
    scored = {name: scorer(contender) for name, contender in contenders.items()} if steps else {}
    # What gives no number can't win, nor stay.
    costs = {name: cost for name, cost in scored.items() if math.isfinite(cost)}
    if not costs:
        stays = CANDIDATE if incumbent is None or incumbent not in contenders else incumbent
        reason = "no contender gives a number" if steps else "no demand could be kept to score on"
        return GateDecision(stays, {}, 0, live, reason=reason)
    winner = min(costs, key=costs.__getitem__)
    if incumbent is None or incumbent not in costs:
        return GateDecision(winner, costs, steps, live)
    if _takes_over(costs[winner], costs[incumbent]):
        return GateDecision(winner, costs, steps, live)
    others = {name: cost for name, cost in costs.items() if name != incumbent}
    if live is None or not live.lost or not others:
        return GateDecision(incumbent, costs, steps, live)
    return GateDecision(
        min(others, key=others.__getitem__),
        costs,
        steps,
        live,
        demoted=True,
        reason=f"{incumbent} has cost {live.champion:.3f} a step live, where the runner-up would "
        f"have cost {live.runner_up:.3f}, over {live.steps} steps",
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """The contenders that every fleet has, the demand that is kept from them, and its scorer."""

    history: History
    """All of the recorded demand: a rule that wins is tuned again on it."""
    rows: IntArray
    """Decisions on the kept demand, by the row after which they are made."""
    parameters: FleetParameters
    scorer: Scorer
    rules: Mapping[str, ServedRule]
    pretrained: ResidualModule | None

    @classmethod
    def of(
        cls,
        training: Recorded,
        history: History,
        rows: IntArray,
        parameters: FleetParameters,
        scorer: Scorer,
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
            general_module(parameters),
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
        if _takes_over(cost, costs[incumbent]):
            return replace(mixed, costs=costs)
        return replace(
            decision,
            winner=incumbent,
            costs=costs,
            reason=f"{rule} did better alone, but the candidate beside it did not",
        )

    def _tuned_to_the_end(self, rule: str) -> ServedRule:
        """The rule tuned again, with the newest demand; as it was where that has no such rule."""
        return tuned_rules(self.history, self.parameters).get(rule, self.rules[rule])


def tuned_rules(training: History, parameters: FleetParameters) -> dict[str, ServedRule]:
    """Every rule that can serve, tuned on `training`, by its name."""
    low, high = parameters.min_servers, parameters.max_servers
    clipped = History(training.times, np.clip(training.demands, low, high), training.step_seconds)
    served = {
        name_of(rule): ServedRule.of(tune(rule, clipped, parameters), parameters)
        for rule in SERVED_RULES
    }
    return {name: rule for name, rule in served.items() if rule is not None}


def cost_on(
    history: History, rows: IntArray, parameters: FleetParameters, guards: Guards = NO_GUARDS
) -> Scorer:
    """Scores what a policy asks for after `rows`, through the guards, on the demand that it meets.

    In servers per step; with the notebook's reward, which is no cost, minus the mean reward.
    """

    def cost(policy: BatchPolicy) -> float:
        targets = decide(policy, history, parameters, rows)
        if guards != NO_GUARDS:
            targets = guarded_series(
                targets,
                history.demands[rows],
                guards,
                parameters,
                scheduled=guards.scheduled_at(
                    history.times[rows], parameters, history.step_seconds
                ),
            )
        held_out = evaluate(targets, history, parameters, rows)
        if held_out is None:
            return math.nan
        return -held_out.reward if parameters.reward == "notebook" else held_out.cost

    return cost


def _takes_over(cost: float, incumbents: float) -> bool:
    """Whether a cost is low enough for a change; costs below 0 are the notebook's rewards."""
    return cost < incumbents - MARGIN * abs(incumbents)
