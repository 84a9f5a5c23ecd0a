"""The backtest as one picture: what was needed and what was up, and what it cost by policy."""

import importlib.util
from pathlib import Path

from services.cli.backtest import AUTOPILOT, ORACLE, Report
from services.cli.files import write_whole
from services.cli.report import TITLES, by_cost
from shared.errors import BadInput

SHOWN_STEPS = 600
"""Newest scored steps in the picture; more would blur the shading."""
WAITING, IDLE, DEMAND, ALLOCATION = "#d62728", "#9ecae1", "#222222", "#1f5fa8"
DEARER_THAN_SHOWN = 4.0
"""Bars end at this many times the learnt policy's or the best rule's cost, and are labelled."""
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp", ".eps")


def check_can_plot(path: Path) -> None:
    """Raise `BadInput` when the suffix is no picture's, or matplotlib is not installed."""
    if path.suffix.lower() not in PICTURES:
        raise BadInput(f"--plot {path}: end the name in one of {' '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput("--plot needs matplotlib: pip install 'gameserver-autopilot[trainer]'")


def write_plot(report: Report, path: Path) -> None:
    """Draw the report into a PNG (or what the suffix names)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import dates
    from matplotlib import pyplot as plt

    case, best = report.case, report.outcomes[AUTOPILOT]
    rows = slice(max(case.start, len(case.history.demands) - SHOWN_STEPS), None)
    times = case.demand.timestamps[rows]
    demand, allocation = case.history.demands[rows], best.replay.allocations[rows]
    figure, (series, bars) = plt.subplots(
        1, 2, figsize=(15, 6), width_ratios=(2.4, 1), layout="constrained"
    )
    try:
        series.fill_between(
            times, allocation, demand, where=list(demand > allocation), interpolate=True,
            color=WAITING, alpha=0.85, linewidth=0, label="players wait",
        )  # fmt: skip
        series.fill_between(
            times, demand, allocation, where=list(demand <= allocation), interpolate=True,
            color=IDLE, alpha=0.6, linewidth=0, label="servers idle",
        )  # fmt: skip
        series.plot(times, demand, color=DEMAND, linewidth=1.4, label="demand")
        series.plot(times, allocation, color=ALLOCATION, linewidth=1.4, label="servers up")
        series.set_ylim(0, 1.12 * max(*demand, *allocation, 1.0))  # room for the legend
        series.set_ylabel("game servers")
        series.xaxis.set_major_formatter(
            dates.ConciseDateFormatter(series.xaxis.get_major_locator())
        )
        series.margins(x=0)
        series.legend(loc="upper left", ncols=4, frameon=False)
        series.set_title(f"{case.demand.name}: the last {len(times)} steps, not learnt from")

        names = [name for name in reversed(by_cost(report)) if name != ORACLE]
        costs = [report.outcomes[name].score.cost_per_step for name in names]
        end = DEARER_THAN_SHOWN * max(best.score.cost_per_step, min(costs), 1e-9)
        drawn = bars.barh(
            [TITLES[name] for name in names],
            [min(cost, end) for cost in costs],
            color=[ALLOCATION if name == AUTOPILOT else "#bbbbbb" for name in names],
        )
        bars.bar_label(drawn, [f"{cost:.2f}" for cost in costs], padding=4)
        bars.set_xlim(0, 1.18 * min(end, max(*costs, 1e-9)))
        bars.set_xticks([])
        bars.set_title(
            f"cost a step: idle + {case.parameters.over_prov_factor:g} x short, in servers"
        )
        for axes in (series, bars):
            axes.spines[["top", "right"]].set_visible(False)
        write_whole(path, lambda partial: figure.savefig(partial, dpi=150))
    except ValueError as error:
        raise BadInput(f"--plot {path}: {error}") from error
    finally:
        plt.close(figure)
