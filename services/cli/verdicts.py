"""How the gate has decided, job by job, for `autopilot policies`."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from shared.bus import TRAININGS, Bus
from shared.messages import TrainingOutcome

Verdicts = dict[str, list[TrainingOutcome]]
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


def read_verdicts(redis_url: str, fleets: Iterable[str], newest: int | None = None) -> Verdicts:
    """The newest verdicts of each fleet, or all that are kept; raises `BusAway`."""

    async def read() -> Verdicts:
        bus = Bus.connect(redis_url)
        try:
            return {fleet: await bus.newest_changes(TRAININGS, fleet, newest) for fleet in fleets}
        finally:
            await bus.close()

    return asyncio.run(read())


def verdicts_table(fleet: str, verdicts: Sequence[TrainingOutcome]) -> Table:
    """A row a verdict; costs are those on the demand that the gate has kept, unless live."""
    title = f"the gate's verdicts on fleet {fleet}, cost a step"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        table.add_row(
            f"{verdict.at:%Y-%m-%d %H:%M:%S}",
            verdict.outcome,
            _serves(verdict),
            _cost(verdict.costs, "candidate"),
            _cost(verdict.costs, verdict.champion),
            _cost(verdict.costs, verdict.runner_up),
            _best_rule(verdict.costs),
            str(verdict.scored_steps),
            _live(verdict),
            _why(verdict),
        )
    return table


def concerning(version: str, verdicts: Iterable[TrainingOutcome]) -> list[TrainingOutcome]:
    """The verdicts that a version was in, or has come from."""
    return [
        verdict
        for verdict in verdicts
        if version in (verdict.version, verdict.champion, verdict.runner_up)
    ]


def _serves(verdict: TrainingOutcome) -> str:
    if verdict.winner in (None, verdict.version):
        return verdict.version or ""
    return f"{verdict.version}, the {verdict.winner}"


def _cost(costs: Mapping[str, float], contender: str | None) -> str:
    cost = None if contender is None else costs.get(contender)
    return "" if cost is None else f"{cost:.3f}"


def _best_rule(costs: Mapping[str, float]) -> str:
    rules = {name: cost for name, cost in costs.items() if name.startswith("rule:")}
    best = min(rules, key=rules.__getitem__, default=None)
    return "" if best is None else f"{rules[best]:.3f} {best.removeprefix('rule:')}"


def _live(verdict: TrainingOutcome) -> str:
    if not verdict.live_steps:
        return ""
    own, other = (_cost(verdict.live_costs, who) for who in (verdict.champion, verdict.runner_up))
    return f"{own}, runner-up {other}, {verdict.live_steps} steps"


def _why(verdict: TrainingOutcome) -> str:
    return verdict.error or verdict.reason or ""
