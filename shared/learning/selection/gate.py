"""The champion-challenger gate: contenders are scored on demand that none was trained on.

Demand is exogenous, so the cost of any contender on recorded demand is known exactly.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from shared.core.arrays import IntArray
from shared.core.evaluation import evaluate
from shared.core.guards import NO_GUARDS, Guards, guarded_series
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy, decide
from shared.learning.selection.live import Live

MARGIN = 0.01
"""Fraction by which a challenger must be cheaper than the incumbent: equals don't alternate."""
CANDIDATE = "candidate"

T = TypeVar("T")
Scorer = Callable[[BatchPolicy], float]
"""Mean cost per step of a policy on the kept demand; lower is better, NaN for an unusable one."""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The winner, and the costs of all contenders."""

    winner: str
    costs: dict[str, float]
    """By contender: servers per step on the kept demand; lower is better."""
    steps: int
    """Number of decisions on the kept demand."""
    live: Live | None = None
    demoted: bool = False
    """Whether the champion was replaced only because of its live costs."""
    reason: str | None = None
    """The reason, where the costs do not show it."""
    beside: str | None = None
    """The rule that is mixed with the winning candidate, since it did better alone."""


def select(
    contenders: Mapping[str, T],
    incumbent: str | None,
    scorer: Callable[[T], float],
    steps: int,
    live: Live | None = None,
) -> GateDecision:
    """Score every contender on `steps` kept decisions; the cheapest wins, of equals the first.

    The incumbent is replaced only by a contender that is cheaper by `MARGIN`, or when it has lost
    live: then by the cheapest of the others. Without steps to score on, the incumbent stays;
    without an incumbent, the candidate is promoted.
    """
    scored = {name: scorer(contender) for name, contender in contenders.items()} if steps else {}
    # A contender without a finite cost can't win or stay.
    costs = {name: cost for name, cost in scored.items() if math.isfinite(cost)}
    if not costs:
        stays = CANDIDATE if incumbent is None or incumbent not in contenders else incumbent
        reason = (
            "no contender has a finite cost" if steps else "no demand could be kept to score on"
        )
        return GateDecision(stays, {}, 0, live, reason=reason)
    winner = min(costs, key=costs.__getitem__)
    if incumbent is None or incumbent not in costs:
        return GateDecision(winner, costs, steps, live)
    if takes_over(costs[winner], costs[incumbent]):
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


def cost_on(
    history: History, rows: IntArray, parameters: FleetParameters, guards: Guards = NO_GUARDS
) -> Scorer:
    """A scorer: the cost of a policy's targets after `rows`, guards applied, on recorded demand.

    In servers per step; with the notebook's reward, which is not a cost, minus the mean reward.
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
                    history.times[rows], parameters.lead_steps, history.step_seconds
                ),
            )
        held_out = evaluate(targets, history, parameters, rows)
        if held_out is None:
            return math.nan
        return -held_out.reward if parameters.reward == "notebook" else held_out.cost

    return cost


def takes_over(cost: float, incumbents_cost: float) -> bool:
    """Whether a challenger's cost is low enough; costs below 0 come from the notebook's reward."""
    return cost < incumbents_cost - MARGIN * abs(incumbents_cost)
