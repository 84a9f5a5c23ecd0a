"""Live costs of a fleet's decisions on its demand, compared with what ran or with the rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.core.evaluation import score
from shared.core.guards import guarded_series
from shared.core.history import History
from shared.core.replay import later
from shared.core.rules import live_rule
from shared.messages import RecordedStep
from shared.settings import FleetSettings

Other = Literal["ran", "rule"]


@dataclass(frozen=True, slots=True)
class LiveCosts:
    """Costs in servers per step: an idle server costs 1, a missing one `over_prov_factor`."""

    decided: float
    """Of the servers that the decisions have brought up, or would have if followed."""
    instead: float
    """Of the alternative, on the same steps."""
    compared_with: Other
    """The alternative: `ran`, the servers that were really up, as reported; or `rule`, those that
    the rule would have brought up with the same guards, where no supply is reported."""
    steps: int


def live_costs(steps: Sequence[RecordedStep], settings: FleetSettings) -> LiveCosts | None:
    """The costs over a fleet's recorded steps, oldest first; None without any to score.

    Demand does not depend on decisions, so both costs are exact. The alternative is what ran, if
    that is reported for at least half of the steps.
    """
    steps = [step for step in steps if step.allocation is not None]
    if not steps:
        return None
    parameters = settings.parameters
    usable = np.array([step.usable for step in steps])
    demands = parameters.within_limits([step.demand for step in steps])
    allocations = np.array([step.allocation for step in steps], dtype=np.float64)
    up = np.array([np.nan if step.up is None else step.up for step in steps])
    reported = usable & ~np.isnan(up)
    if 2 * reported.sum() >= usable.sum() and reported.any():
        return _compared(allocations, up, demands, reported, "ran", settings)
    first = parameters.history_len - 1 + parameters.lead_steps
    scored = usable & (np.arange(len(steps)) >= first)
    if not scored.any():
        return None
    return _compared(allocations, _by_rule(steps, settings), demands, scored, "rule", settings)


def _compared(
    decided: np.ndarray,
    instead: np.ndarray,
    demands: np.ndarray,
    rows: np.ndarray,
    compared_with: Other,
    settings: FleetSettings,
) -> LiveCosts:
    costs = [
        score(up[rows], demands[rows], settings.over_prov_factor).cost_per_step
        for up in (decided, instead)
    ]
    return LiveCosts(costs[0], costs[1], compared_with, int(rows.sum()))


def _by_rule(steps: Sequence[RecordedStep], settings: FleetSettings) -> np.ndarray:
    """The servers that the rule would have had up at each step, shape ``(steps,)``.

    Its target is held while demand is. It starts from the number that was really told before.
    """
    parameters, guards = settings.parameters, settings.guards
    times = np.array([step.at for step in steps])
    demands = np.array([step.demand for step in steps], dtype=np.float64)
    requested = live_rule(History(times, demands, settings.learning_freq), parameters)
    newest_usable = np.maximum.accumulate(
        [row if step.usable else 0 for row, step in enumerate(steps)]
    )
    told = guarded_series(
        requested[newest_usable],
        demands,
        guards,
        parameters,
        floors=[step.floor for step in steps],
        scheduled=guards.scheduled_at(times, parameters.lead_steps, settings.learning_freq),
        previous=next((step.allocation for step in steps[parameters.history_len :]), None),
    )
    return later(told, parameters.lead_steps, parameters.min_servers)
