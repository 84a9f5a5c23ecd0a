"""Live costs: a champion's since it serves, and the runner-up's counterfactual on the same demand.

The gate's costs come from a replay. A champion that has cost more than the runner-up live, for
long, is demoted, whatever its replay says. Guards change the cost of any policy, so they are
applied to the runner-up's targets too.
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
"""Fewest live decisions of a champion before it can be demoted: two batches of new steps."""
MOST_LIVE_STEPS = 1_000
"""Most decisions, the newest: 18 hours at 65 s. Earlier ones must not hide recent costs."""
LIVE_MARGIN = 0.05
"""Fraction by which a champion may cost more than the runner-up live, since its replay was better.
"""


@dataclass(frozen=True, slots=True)
class Served:
    """The live decisions of a version; in servers, shape ``(rows,)`` each, oldest first."""

    rows: IntArray
    """Rows after which it has decided."""
    up: FloatArray
    """Servers that were up as a result."""
    told: FloatArray
    """Recommended targets, after the guards."""
    floors: FloatArray
    """The allocated floor at that time: servers in use, and those that tickets need."""


@dataclass(frozen=True, slots=True)
class Live:
    """The live cost of a champion, and the runner-up's counterfactual on the same demand."""

    champion: float
    """Servers per step, of the servers that were really up."""
    runner_up: float
    """Servers per step."""
    steps: int
    lost: bool
    """Whether the champion has cost more for long, and still does; see `watch`."""


def live_beside(
    champion: str,
    runner_up: BatchPolicy,
    transitions: Sequence[Transition],
    recorded: Recorded,
    parameters: FleetParameters,
    guards: Guards,
) -> Live | None:
    """The live costs of champion and runner-up; None without a live step."""
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
    """The live decisions of `version`, after at most `MOST_LIVE_STEPS` rows.

    A row's decision is the target of the next step, and the allocation `lead_steps` later, when it
    meets its demand.
    """
    by_time = {transition.at.timestamp(): transition for transition in transitions}
    times = recorded.history.times.tolist()
    rows: list[int] = []
    found: list[tuple[float, float, float]] = []
    for row in decision_rows(recorded, parameters).tolist():
        seen = by_time.get(times[row])
        applied = by_time.get(times[row + 1])
        met = by_time.get(times[row + parameters.lead_steps])
        if applied is not None and met is not None and applied.policy_version == version:
            rows.append(row)
            # The floor of the decision is that of the step before its target applies.
            floor = 0.0 if seen is None else seen.floor
            found.append((met.allocation, applied.target, floor))
    up, told, floors = np.array(found[-MOST_LIVE_STEPS:]).reshape(-1, 3).T
    return Served(np.array(rows[-MOST_LIVE_STEPS:], dtype=np.int64), up, told, floors)


def instead_of(
    served: Served,
    targets: FloatArray,
    history: History,
    parameters: FleetParameters,
    guards: Guards,
) -> FloatArray:
    """The recommended targets if another policy had requested `targets` after the rows of `served`.

    In servers, shape ``(rows,)``. Both start from the same target, with the same servers in use.
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
        scheduled=guards.scheduled_at(
            history.times[rows], parameters.lead_steps, history.step_seconds
        ),
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
    """Compare the champion's live allocations `up` with the runner-up's targets, in servers.

    The champion has lost when it costs more by `LIVE_MARGIN`, over all of at least
    `LEAST_LIVE_STEPS` steps and over the newer half of them: a single bad hour, or one that is
    past, does not demote it. None without a step.
    """
    lost = len(rows) >= LEAST_LIVE_STEPS
    costs: list[tuple[float, float]] = []
    for part in (slice(None), slice(len(rows) // 2, None)):
        pair = [
            evaluate(series[part], history, parameters, rows[part]) for series in (up, runner_up)
        ]
        if pair[0] is None or pair[1] is None:
            return None
        costs.append((pair[0].cost, pair[1].cost))
        lost = lost and pair[0].cost > (1 + LIVE_MARGIN) * pair[1].cost
    champion, other = costs[0]
    return Live(champion, other, len(rows), lost)
