"""How the gate has decided, job by job, for `autopilot policies`."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from shared.bus import TRAININGS, Bus
from shared.messages import TrainingOutcome

GateDecisions = dict[str, list[TrainingOutcome]]
"""By fleet, oldest first."""

HEADINGS = (
    "ended (UTC)",
    "outcome",
    "serves now",
    "candidate",
    "champion",
    "runner-up",
    "best rule",
    "steps",
    "live",
    "why",
)
NARROW_HEADINGS = ("ended (UTC)", "outcome", "serves now", "candidate", "champion", "best rule")
"""Within 80 columns."""


def read_decisions(
    redis_url: str, fleets: Iterable[str], newest: int | None = None
) -> GateDecisions:
    """The newest verdicts of each fleet, or all that are kept; raises `BusAway`."""

    async def read() -> GateDecisions:
        bus = Bus.connect(redis_url)
        try:
            return {fleet: await bus.newest_changes(TRAININGS, fleet, newest) for fleet in fleets}
        finally:
            await bus.close()

    return asyncio.run(read())


def decisions_table(
    fleet: str, decisions: Sequence[TrainingOutcome], *, wide: bool = False
) -> Table:
    """A row a decision; costs are those on the demand that the gate has kept, unless live."""
    title = f"gate decisions of {fleet}, cost a step"
    if not wide:
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        for heading in NARROW_HEADINGS:
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for decision in decisions:
            table.add_row(
                f"{decision.at:%m-%d %H:%M}",
                decision.outcome,
                decision.error or decision.version or "",
                _cost(decision.costs, "candidate"),
                _cost(decision.costs, decision.champion),
                _best_rule(decision.costs),
            )
        return table
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for decision in decisions:
        table.add_row(
            f"{decision.at:%Y-%m-%d %H:%M:%S}",
            decision.outcome,
            _serves(decision),
            _cost(decision.costs, "candidate"),
            _cost(decision.costs, decision.champion),
            _cost(decision.costs, decision.runner_up),
            _best_rule(decision.costs),
            str(decision.scored_steps),
            _live(decision),
            _why(decision),
        )
    return table


def concerning(version: str, verdicts: Iterable[TrainingOutcome]) -> list[TrainingOutcome]:
    """The verdicts that a version was in, or has come from."""
    return [
        decision
        for decision in verdicts
        if version in (decision.version, decision.champion, decision.runner_up)
    ]


def _serves(decision: TrainingOutcome) -> str:
    if decision.winner in (None, decision.version):
        return decision.version or ""
    return f"{decision.version}, the {decision.winner}"


def _cost(costs: Mapping[str, float], contender: str | None) -> str:
    cost = None if contender is None else costs.get(contender)
    return "" if cost is None else f"{cost:.3f}"


def _best_rule(costs: Mapping[str, float]) -> str:
    rules = {name: cost for name, cost in costs.items() if name.startswith("rule:")}
    best = min(rules, key=rules.__getitem__, default=None)
    return "" if best is None else f"{rules[best]:.3f} {best.removeprefix('rule:')}"


def _live(decision: TrainingOutcome) -> str:
    if not decision.live_steps:
        return ""
    own, other = (
        _cost(decision.live_costs, who) for who in (decision.champion, decision.runner_up)
    )
    return f"{own}, runner-up {other}, {decision.live_steps} steps"


def _why(decision: TrainingOutcome) -> str:
    return decision.error or decision.reason or ""
