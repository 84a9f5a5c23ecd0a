"""The output of a backtest: a table, a CSV of decisions."""

import csv
from pathlib import Path

from rich.console import Console

from services.cli.files import write_whole
from services.cli.output import print_table, print_text
from shared.learning.backtest import AUTOPILOT, ORACLE, Report

TITLES = {
    AUTOPILOT: "autopilot",
    "constant": "constant",
    "last_demand": "last demand",
    "buffer": "last demand + buffer",
    "factor": "last demand x factor",
    "trend_buffer": "trend + buffer",
    "target_tracking": "target tracking",
    "seasonal": "seasonal + buffer",
    "live_rule": "the platform's own rule",
    "holt_winters": "Holt-Winters + buffer",
    "lightgbm": "LightGBM, quantile",
    ORACLE: "perfect foresight",
}
"""Names in tables and plots, by the names in the JSON."""


def by_cost(report: Report) -> list[str]:
    """Names of the policies, the cheapest first."""
    return sorted(report.outcomes, key=lambda name: report.outcomes[name].score.cost_per_step)


def print_report(report: Report, console: Console) -> None:
    """A table of every policy, the cheapest first, and the notes."""
    case = report.case
    steps = report.outcomes[AUTOPILOT].score.steps
    low, high = case.parameters.min_servers, case.parameters.max_servers
    print_text(
        console,
        f"{case.demand.name}: trained on {case.start} steps, scored on the {steps} after them; "
        f"{low:g} to {high:g} servers, which are up after {case.parameters.history_len} steps",
    )
    names = by_cost(report)
    headings = ("policy", "cost/step", "steps short", "missing/step", "idle/step")
    scores = [report.outcomes[name].score for name in names]
    rows = [
        (
            TITLES[name],
            f"{score.cost_per_step:.2f}",
            f"{score.under_steps_pct:.1f} %",
            f"{score.unserved_server_steps / score.steps:.2f}",
            f"{score.idle_server_steps / score.steps:.2f}",
        )
        for name, score in zip(names, scores, strict=True)
    ]
    print_table(console, headings, rows, right=headings[1:], bold={names.index(AUTOPILOT)})
    for note in report.notes:
        print_text(console, note)


def write_decisions(report: Report, path: Path) -> None:
    """`step,timestamp,demand,target,allocation` of the trained policy, for the scored part."""
    case, played = report.case, report.outcomes[AUTOPILOT].replay

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("step", "timestamp", "demand", "target", "allocation"))
            for row in range(case.start, len(case.history.demands)):
                rows.writerow(
                    (
                        row,
                        f"{case.demand.timestamps[row]:%Y-%m-%dT%H:%M:%SZ}",
                        float(case.history.demands[row]),
                        float(played.targets[row]),
                        float(played.allocations[row]),
                    )
                )

    write_whole(path, write)
