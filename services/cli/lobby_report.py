"""Output of a backtest in the lobby's dynamics: a table, a CSV of decisions, a figure."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from services.cli.files import write_whole
from services.cli.output import print_table, print_text
from services.cli.plots import IDLE, SHOWN_STEPS, WAITING, draw_bars, draw_lines
from services.cli.report import TITLES
from shared.core.rollout import LedgerRow
from shared.learning.backtest import AUTOPILOT
from shared.learning.lobby.backtest import LobbyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOBBY_TITLES = TITLES | {
    "adaptive_rule": "rule that follows the lead",
    "tuned_rule": "rule, tuned",
    "quantile": "quantile six steps ahead",
}
COLUMNS = ("step", "timestamp", "demand", *LedgerRow._fields)


def by_cost(report: LobbyReport) -> list[str]:
    """Names of the contenders by ascending cost; in a tie, the autopilot comes first."""
    return sorted(report.outcomes, key=lambda name: report.outcomes[name].score.cost_per_step)


def print_lobby(report: LobbyReport, console: Console) -> None:
    """Print a table of all contenders, by ascending cost."""
    case, paths = report.case.case, len(report.case.leads)
    low, high = case.parameters.min_servers, case.parameters.max_servers
    drawn = "on the lead times given" if paths == 1 else f"on {paths} lead paths"
    print_text(
        console,
        f"{case.demand.name}: trained on {case.start} steps, scored on the {len(report.steps)} "
        f"after them, {drawn}; {low:g} to {high:g} servers",
    )
    names = by_cost(report)
    headings = ("policy", "cost/step", "+-", "waiting", "p95", "wait %", "idle", "lost")
    rows = []
    for name in names:
        score = report.outcomes[name].score
        rows.append(
            (
                LOBBY_TITLES[name],
                f"{score.cost_per_step:.2f}",
                f"{score.standard_error:.2f}" if paths > 1 else "",
                f"{score.waiting_mean:.2f}",
                f"{score.waiting_p95:.2f}",
                f"{score.matches_that_wait_pct:.1f}",
                f"{score.idle_server_steps / score.steps:.2f}",
                f"{score.lost:.0f}",
            )
        )
    print_table(console, headings, rows, right=headings[1:], bold={names.index(AUTOPILOT)})
    print_text(
        console,
        "waiting: matches that wait for a server, per step; wait %: of the new matches; idle: "
        "servers, per step; lost: matches whose players left.",
    )
    for note in report.notes:
        print_text(console, note)


def write_lobby_decisions(report: LobbyReport, path: Path) -> None:
    """Write `COLUMNS` of the autopilot on the first lead path, a row per scored step.

    Counts and cost are those at the time the cost is charged, before the policy acts; the band and
    its effects follow.
    """
    case = report.case.case

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for row, step in enumerate(report.steps, start=case.start):
                stamp = f"{case.demand.timestamps[row]:%Y-%m-%dT%H:%M:%SZ}"
                rows.writerow((row, stamp, float(case.history.demands[row]), *step))

    write_whole(path, write)


def draw_lobby(report: LobbyReport) -> "Figure":
    """Draw the newest steps on the first path, and a bar with the cost of each contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6), layout="constrained")
    series, bars = figure.subplots(1, 2, width_ratios=(2.4, 1))
    _draw_series(series, report)
    names = by_cost(report)[::-1]
    scores = [report.outcomes[name].score for name in names]
    titles = [
        f"{LOBBY_TITLES[name]}\n{score.matches_that_wait_pct:.1f} % wait"
        for name, score in zip(names, scores, strict=True)
    ]
    cut = draw_bars(bars, titles, [score.cost_per_step for score in scores], names.index(AUTOPILOT))
    weights = report.case.fleet.lobby.weights
    bars.set_title("cost per step")
    for axes in (series, bars):
        axes.spines[["top", "right"]].set_visible(False)
    formula = (
        f"Cost of a step: idle servers + starting servers + {weights.waiting:g} x waiting matches "
        f"+ {weights.lost:g} x lost ones."
    )
    notes = [
        formula,
        *report.notes,
        *(["A bar with a break in it is cut short: see its number."] * cut),
    ]
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize="medium", color="#444444")
    return figure


def _draw_series(axes: "Axes", report: LobbyReport) -> None:
    from matplotlib import dates

    case = report.case.case
    steps = report.steps[-SHOWN_STEPS:]
    times = dates.date2num(case.demand.timestamps[-len(steps) :])
    up, busy, waiting = (
        np.array([getattr(step, what) for step in steps]) for what in ("up", "busy", "waiting")
    )
    axes.fill_between(
        times, busy, up, color=IDLE, alpha=0.6, linewidth=0, label="servers idle"
    )  # fmt: skip
    axes.fill_between(
        times, busy, busy + waiting, color=WAITING, alpha=0.85, linewidth=0, label="players wait"
    )  # fmt: skip
    draw_lines(axes, case, times, {"matches wanted": busy + waiting, "servers up": up})
