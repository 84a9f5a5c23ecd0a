"""Who serves a fleet: candidate, champion, runner-up and tuned rules, scored on newest demand.

Demand is exogenous, so what any of them would have cost on it is exact. The newest part of the
history is kept from the candidate's learning and from the rules' tuning; the champion and the
runner-up are older than most of it. Every job asks again, so a champion that comes to lose is
replaced by whoever does better, a rule or the one before it included.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.evaluation import evaluate
from services.trainer.replay import Recorded, decision_rows
from services.trainer.rules import SERVED_RULES, ServedRule
from shared.core.observation import History, IntArray
from shared.core.parameters import FleetParameters
from shared.core.tuning import tune

FloatArray = NDArray[np.float64]

GATE_PART = 0.2
"""Newest part of the history that the gate keeps for itself."""
LEAST_STEPS = 20
"""Decisions that a verdict needs; with fewer, a candidate serves if nobody does."""
MARGIN = 0.01
"""How much less than the champion's a cost must be to take over, so that equals don't alternate."""

CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found."""

    winner: str
    costs: dict[str, float]
    """By contender: servers per step on the kept demand; lower is better."""
    steps: int


def keep_for_gate(recorded: Recorded, parameters: FleetParameters) -> tuple[Recorded, IntArray]:
    """What may be learnt from, and the decision rows that are kept from it.

    Nothing is kept while less than `LEAST_STEPS` decisions could be, or nothing would be left.
    """
    rows = len(recorded.history.demands)
    cut = rows - max(int(GATE_PART * rows), LEAST_STEPS + parameters.lead_steps)
    learnt = recorded.until(max(cut, 0))
    decisions = decision_rows(recorded, parameters)
    kept = decisions[decisions >= cut - 1]
    if len(kept) < LEAST_STEPS or not len(decision_rows(learnt, parameters)):
        return recorded, np.empty(0, dtype=np.int64)
    return learnt, kept


def tuned_rules(training: History, parameters: FleetParameters) -> dict[str, ServedRule]:
    """Every rule that can serve, tuned on `training`, by its name."""
    low, high = parameters.min_servers, parameters.max_servers
    clipped = History(training.times, np.clip(training.demands, low, high), training.step_seconds)
    served = {
        f"rule:{rule.name}": ServedRule.of(tune(rule, clipped, parameters), parameters)
        for rule in SERVED_RULES
    }
    return {name: rule for name, rule in served.items() if rule is not None}


def judge(
    targets: Mapping[str, FloatArray],
    incumbent: str | None,
    history: History,
    parameters: FleetParameters,
    rows: IntArray,
) -> Verdict:
    """Score every contender's targets after `rows`, in servers, on the demand that they meet.

    The cheapest wins; an incumbent loses only to one that is `MARGIN` cheaper. Without rows to
    score on, the incumbent stays, or else the candidate serves.
    """
    scored = {name: evaluate(asked, history, parameters, rows) for name, asked in targets.items()}
    # What gives no number can't win, nor stay.
    costs = {
        name: held_out.cost
        for name, held_out in scored.items()
        if held_out is not None and math.isfinite(held_out.cost)
    }
    if not costs:
        return Verdict(CANDIDATE if incumbent is None else incumbent, {}, 0)
    winner = min(costs, key=costs.__getitem__)
    if incumbent in costs and costs[winner] >= (1 - MARGIN) * costs[incumbent]:
        winner = incumbent
    return Verdict(winner, costs, len(rows))
