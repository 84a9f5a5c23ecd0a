"""The gate's decisions, job by job, for `autopilot policies`."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from services.cli.output import print_table
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
"""Of the table that fits 80 columns."""


def read_decisions(
    redis_url: str, fleets: Iterable[str], newest: int | None = None
) -> GateDecisions:
    """The newest decisions for each fleet, or all that are stored; raises `BusAway`."""

    async def read() -> GateDecisions:
        bus = Bus.connect(redis_url)
        try:
            return {fleet: await bus.newest_changes(TRAININGS, fleet, newest) for fleet in fleets}
        finally:
            await bus.close()

    return asyncio.run(read())


def print_decisions(
    console: Console, fleet: str, decisions: Sequence[TrainingOutcome], *, wide: bool = False
) -> None:
    """Print a row per decision; costs are those on the gate's kept demand, unless live."""
    title = f"gate decisions of {fleet}: cost per step on kept demand"
    if wide:
        console.print(_wide_table(title, decisions))
        return
    rows = [
        (
            f"{decision.at:%m-%d %H:%M}",
            decision.outcome,
            decision.error or decision.version or "",
            _cost(decision.costs, "candidate", 2),
            _cost(decision.costs, decision.champion, 2),
            _cost(decision.costs, _best_rule(decision.costs), 2),
        )
        for decision in decisions
    ]
    print_table(
        console,
        NARROW_HEADINGS,
        rows,
        title=title,
        right=NARROW_HEADINGS[3:],
        shrinking={"serves now"},
    )


def _wide_table(title: str, decisions: Sequence[TrainingOutcome]) -> Table:
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
            _named_cost(decision.costs, _best_rule(decision.costs)),
            str(decision.scored_steps),
            _live(decision),
            _why(decision),
        )
    return table


def concerning(version: str, decisions: Iterable[TrainingOutcome]) -> list[TrainingOutcome]:
    """The decisions in which a version was champion or runner-up, or that published it."""
    return [
        decision
        for decision in decisions
        if version in (decision.version, decision.champion, decision.runner_up)
    ]


def _serves(decision: TrainingOutcome) -> str:
    if decision.winner in (None, decision.version):
        return decision.version or ""
    return f"{decision.version}, the {decision.winner}"


def _cost(costs: Mapping[str, float], contender: str | None, digits: int = 3) -> str:
    cost = None if contender is None else costs.get(contender)
    return "" if cost is None else f"{cost:.{digits}f}"


def _best_rule(costs: Mapping[str, float]) -> str | None:
    rules = [name for name in costs if name.startswith("rule:")]
    return min(rules, key=costs.__getitem__, default=None)


def _named_cost(costs: Mapping[str, float], rule: str | None) -> str:
    return "" if rule is None else f"{_cost(costs, rule)} {rule.removeprefix('rule:')}"


def _live(decision: TrainingOutcome) -> str:
    if not decision.live_steps:
        return ""
    own, other = (
        _cost(decision.live_costs, who) for who in (decision.champion, decision.runner_up)
    )
    return f"{own}, runner-up {other}, {decision.live_steps} steps"


def _why(decision: TrainingOutcome) -> str:
    return decision.error or decision.reason or ""
