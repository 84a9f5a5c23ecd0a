"""The champion-challenger gate: contenders are scored on demand that none of them has seen.

Demand is exogenous, so what any contender would have cost on recorded demand is exact.
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
"""Part by which a cost must be below the incumbent's to take over: equals don't alternate."""
CANDIDATE = "candidate"

T = TypeVar("T")
Scorer = Callable[[BatchPolicy], float]
"""Mean cost per step of a policy on the kept demand; lower is better, NaN: it can't serve."""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Who won, and what all contenders cost."""

    winner: str
    costs: dict[str, float]
    """By contender: servers per step on the kept demand; lower is better."""
    steps: int
    """Samples on the kept demand."""
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


def takes_over(cost: float, incumbents: float) -> bool:
    """Whether a cost is low enough for a change; costs below 0 are the notebook's rewards."""
    return cost < incumbents - MARGIN * abs(incumbents)
