"""Who serves a fleet: candidate, champion, runner-up and tuned rules, scored on newest demand.

Demand is exogenous, so what any of them would have cost on it is exact. The newest part of the
history is kept from the candidate's learning and from the rules' tuning; the champion and the
runner-up are older than most of it. Every job asks again, so a champion that comes to lose is
replaced by whoever does better, a rule or the one before it included.

That is a replay. What the champion has really had up since it serves is watched beside it: one
that has lost to the runner-up for long is out of the contest, whatever the replay says of it.

A fleet's guards cost whoever serves it, so everyone is scored on what the guards make of the asks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.evaluation import evaluate
from services.trainer.replay import Recorded, decision_rows
from services.trainer.rules import SERVED_RULES, ServedRule, name_of
from shared.core.guards import NO_GUARDS, Guards, guarded_series
from shared.core.observation import History, IntArray
from shared.core.parameters import FleetParameters
from shared.core.tuning import tune
from shared.messages import Transition

FloatArray = NDArray[np.float64]

GATE_PART = 0.2
"""Newest part of the history that the gate keeps for itself."""
LEAST_STEPS = 20
"""Decisions that a verdict needs; with fewer, a candidate serves if nobody does."""
MARGIN = 0.01
"""How much less than the champion's a cost must be to take over, so that equals don't alternate."""
LEAST_LIVE_STEPS = 256
"""Live decisions of a champion before it can lose: two batches of new steps."""
MOST_LIVE_STEPS = 1_000
"""The newest that are looked at: 18 hours at 65 s. A good past does not excuse a bad present."""
LIVE_MARGIN = 0.05
"""How much more than the runner-up a champion may cost live; its better replay put it there."""

CANDIDATE = "candidate"
GENERAL = "general"
"""The policy that serves while there is no champion: it is in every contest."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a version has done live; shape ``(rows,)`` each, oldest first."""

    rows: IntArray
    """After which it has decided."""
    up: FloatArray
    """Servers up in consequence."""
    told: FloatArray
    """Servers asked for, after the guards."""
    floors: FloatArray
    """What was not to be gone below then: servers in use, and those that tickets need."""


@dataclass(frozen=True, slots=True)
class Live:
    """What a champion has cost live, and the runner-up would have cost on the same demand."""

    champion: float
    """Servers per step, of what was really up."""
    runner_up: float
    steps: int
    lost: bool
    """For long, and still."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found."""

    winner: str
    costs: dict[str, float]
    """By contender: servers per step on the kept demand; lower is better."""
    steps: int
    live: Live | None = None
    demoted: bool = False
    """The champion would have stayed, had it not lost live."""
    reason: str | None = None
    """Why, where the costs don't say it."""


UNGATED = Verdict(
    CANDIDATE, {}, 0, reason="on_policy is not gated: what is learnt serves, as in the notebook"
)


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
        name_of(rule): ServedRule.of(tune(rule, clipped, parameters), parameters)
        for rule in SERVED_RULES
    }
    return {name: rule for name, rule in served.items() if rule is not None}


def judge(
    targets: Mapping[str, FloatArray],
    incumbent: str | None,
    history: History,
    parameters: FleetParameters,
    rows: IntArray,
    live: Live | None = None,
    guards: Guards = NO_GUARDS,
) -> Verdict:
    """Score every contender's targets after `rows`, in servers, on the demand that they meet.

    The cheapest wins; an incumbent loses only to one that is `MARGIN` cheaper, or when it has
    lost live: then to the cheapest of the others. Without rows to score on, the incumbent stays,
    or else the candidate serves.
    """
    scored = {
        name: evaluate(_told(asked, history, parameters, rows, guards), history, parameters, rows)
        for name, asked in targets.items()
    }
    # What gives no number can't win, nor stay.
    costs = {
        name: held_out.cost
        for name, held_out in scored.items()
        if held_out is not None and math.isfinite(held_out.cost)
    }
    if not costs:
        stays = CANDIDATE if incumbent is None else incumbent
        reason = "nobody gives a number" if len(rows) else "no demand could be kept to score on"
        return Verdict(stays, {}, 0, live, reason=reason)
    winner = min(costs, key=costs.__getitem__)
    if incumbent not in costs or costs[winner] < (1 - MARGIN) * costs[incumbent]:
        return Verdict(winner, costs, len(rows), live)
    others = {name: cost for name, cost in costs.items() if name != incumbent}
    if live is None or not live.lost or not others:
        return Verdict(incumbent, costs, len(rows), live)
    return Verdict(
        min(others, key=others.__getitem__),
        costs,
        len(rows),
        live,
        demoted=True,
        reason=f"{incumbent} has cost {live.champion:.3f} a step live, where the runner-up would "
        f"have cost {live.runner_up:.3f}, over {live.steps} steps",
    )


def served_by(
    version: str,
    transitions: Sequence[Transition],
    recorded: Recorded,
    parameters: FleetParameters,
) -> Served:
    """What `version` has done live, after `MOST_LIVE_STEPS` rows at most.

    A row's decision is asked for one step later, and up when it meets its demand, `lead_steps`
    later.
    """
    by_time = {transition.at.timestamp(): transition for transition in transitions}
    times = recorded.history.times.tolist()
    rows: list[int] = []
    found: list[tuple[float, float, float]] = []
    for row in decision_rows(recorded, parameters).tolist():
        seen = by_time.get(times[row])
        asked = by_time.get(times[row + 1])
        met = by_time.get(times[row + parameters.lead_steps])
        if asked is not None and met is not None and asked.policy_version == version:
            rows.append(row)
            # The floor is of the decision, which the step before the ask has made.
            floor = 0.0 if seen is None else seen.floor
            found.append((met.allocation, asked.target, floor))
    up, told, floors = np.array(found[-MOST_LIVE_STEPS:]).reshape(-1, 3).T
    return Served(np.array(rows[-MOST_LIVE_STEPS:], dtype=np.int64), up, told, floors)


def instead_of(
    served: Served,
    targets: FloatArray,
    history: History,
    parameters: FleetParameters,
    guards: Guards,
) -> FloatArray:
    """What the guards would have made of another's targets after the rows of `served`, in servers.

    Both begin with the same number, and the same servers were in use.
    """
    if guards == NO_GUARDS or not len(served.rows):
        return targets
    after_first = _told(
        targets[1:],
        history,
        parameters,
        served.rows[1:],
        guards,
        served.floors[1:],
        float(served.told[0]),
    )
    return np.concatenate((served.told[:1], after_first))


def _told(
    targets: FloatArray,
    history: History,
    parameters: FleetParameters,
    rows: IntArray,
    guards: Guards,
    floors: FloatArray | None = None,
    told: float | None = None,
) -> FloatArray:
    """What the guards make of targets after `rows`, as if those were successive steps."""
    if guards == NO_GUARDS:
        return targets
    return guarded_series(
        targets,
        history.demands[rows],
        guards,
        parameters,
        floors=None if floors is None else floors.tolist(),
        scheduled=guards.scheduled_at(history.times[rows], parameters, history.step_seconds),
        told=told,
    )


def watch(
    up: FloatArray,
    runner_up: FloatArray,
    history: History,
    parameters: FleetParameters,
    rows: IntArray,
) -> Live | None:
    """The champion's live allocations beside the runner-up's targets, after the same rows.

    The champion has lost when it costs `LIVE_MARGIN` more over all of at least
    `LEAST_LIVE_STEPS` steps, and over the newer half of them: one bad hour is no reason, nor is
    one that is over. None without a step.
    """
    lost = len(rows) >= LEAST_LIVE_STEPS
    costs: list[tuple[float, float]] = []
    for part in (slice(None), slice(len(rows) // 2, None)):
        pair = [evaluate(asked[part], history, parameters, rows[part]) for asked in (up, runner_up)]
        if pair[0] is None or pair[1] is None:
            return None
        costs.append((pair[0].cost, pair[1].cost))
        lost = lost and pair[0].cost > (1 + LIVE_MARGIN) * pair[1].cost
    champion, other = costs[0]
    return Live(champion, other, len(rows), lost)
