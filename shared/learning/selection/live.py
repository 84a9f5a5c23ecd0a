"""The live watch: what a champion has cost since it serves, beside what the runner-up would have.

What the gate finds on kept demand is a replay. A champion that has lost to the runner-up live, for
long, is demoted, whatever the replay says of it. A fleet's guards cost whoever serves it, so the
runner-up is scored on what the guards make of its targets too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.core.arrays import FloatArray, IntArray
from shared.core.evaluation import evaluate
from shared.core.guards import NO_GUARDS, Guards, guarded_series
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import BatchPolicy, decide
from shared.messages import Transition
from shared.recorded_demand import Recorded, decision_rows

LEAST_LIVE_STEPS = 256
"""Live decisions of a champion before it can lose: two batches of new steps."""
MOST_LIVE_STEPS = 1_000
"""The newest that are looked at: 18 hours at 65 s. A good past does not excuse a bad present."""
LIVE_MARGIN = 0.05
"""How much more than the runner-up a champion may cost live; its better replay put it there."""


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


def live_beside(
    champion: str,
    runner_up: BatchPolicy,
    transitions: Sequence[Transition],
    recorded: Recorded,
    parameters: FleetParameters,
    guards: Guards,
) -> Live | None:
    """The champion's live cost beside the runner-up's; None without a step."""
    history = recorded.history
    served = served_by(champion, transitions, recorded, parameters)
    targets = decide(runner_up, history, parameters, served.rows)
    counterfactual = instead_of(served, targets, history, parameters, guards)
    return watch(served.up, counterfactual, history, parameters, served.rows)


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
    rows = served.rows[1:]
    after_first = guarded_series(
        targets[1:],
        history.demands[rows],
        guards,
        parameters,
        floors=served.floors[1:].tolist(),
        scheduled=guards.scheduled_at(history.times[rows], parameters, history.step_seconds),
        previous=float(served.told[0]),
    )
    return np.concatenate((served.told[:1], after_first))


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
