"""A backtest as one figure: demand and servers up, and the cost of each policy."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.files import write_whole
from services.cli.report import TITLES, by_cost
from shared.core.arrays import FloatArray
from shared.errors import BadInput
from shared.learning.backtest import AUTOPILOT, ORACLE, Case, Report, selection_notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_STEPS = 600
"""Newest scored steps in the figure; more would blur the shading."""
WAITING, IDLE, DEMAND, ALLOCATION = "#d62728", "#9ecae1", "#222222", "#1f5fa8"
DEARER_THAN_SHOWN = 4.0
"""Bars are cut at this multiple of the autopilot's or the cheapest policy's cost, and marked."""
CUT = "cut"
"""The `gid` of the strokes that mark a cut bar."""
BAR_HEIGHT = 0.8
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp", ".eps")


def check_can_plot(path: Path) -> None:
    """Raise `BadInput` when the suffix is no picture's, or matplotlib is not installed."""
    if path.suffix.lower() not in PICTURES:
        raise BadInput(f"--plot {path}: end the name in one of {' '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput("--plot needs matplotlib: pip install 'gameserver-autopilot[trainer]'")


def write_plot(figure: "Figure", path: Path) -> None:
    """Save a figure as a PNG, or as what the suffix names."""
    try:
        write_whole(path, lambda partial: figure.savefig(partial, dpi=150))
    except ValueError as error:
        raise BadInput(f"--plot {path}: {error}") from error


def draw(report: Report) -> "Figure":
    """The figure: the newest steps, a bar for each policy, and notes below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6), layout="constrained")
    series, bars = figure.subplots(1, 2, width_ratios=(2.4, 1))
    _draw_series(series, report)
    cut = _draw_costs(bars, report)
    for axes in (series, bars):
        axes.spines[["top", "right"]].set_visible(False)
    notes = selection_notes(report.outcomes[AUTOPILOT])
    if cut:
        notes.append("A bar with a break in it is cut short: see its number.")
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize="medium", color="#444444")
    return figure


def _draw_series(axes: "Axes", report: Report) -> None:
    from matplotlib import dates

    case = report.case
    rows = slice(max(case.start, len(case.history.demands) - SHOWN_STEPS), None)
    times = dates.date2num(case.demand.timestamps[rows])
    demand = case.history.demands[rows]
    allocation = report.outcomes[AUTOPILOT].replay.allocations[rows]
    axes.fill_between(
        times, allocation, demand, where=list(demand > allocation), interpolate=True,
        color=WAITING, alpha=0.85, linewidth=0, label="players wait",
    )  # fmt: skip
    axes.fill_between(
        times, demand, allocation, where=list(demand <= allocation), interpolate=True,
        color=IDLE, alpha=0.6, linewidth=0, label="servers idle",
    )  # fmt: skip
    draw_lines(axes, case, times, {"demand": demand, "servers up": allocation})


def draw_lines(
    axes: "Axes", case: Case, times: FloatArray, lines: Mapping[str, FloatArray]
) -> None:
    """The demand and the servers up over the newest `times`, by their labels, axes and legend."""
    from matplotlib import dates

    for color, (label, values) in zip((DEMAND, ALLOCATION), lines.items(), strict=True):
        axes.plot(times, values, color=color, linewidth=1.4, label=label)
    axes.set_ylim(0, 1.12 * max(1.0, *map(max, lines.values())))  # room for the legend
    axes.set_ylabel("game servers")
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.margins(x=0)
    axes.legend(loc="upper left", ncols=4, frameon=False)
    axes.set_title(f"{case.demand.name}: the last {len(times)} steps, not trained on")


def _draw_costs(axes: "Axes", report: Report) -> bool:
    """Draw a bar for each policy, the cheapest on top. Returns whether any is cut."""
    names = [name for name in reversed(by_cost(report)) if name != ORACLE]
    weight = report.case.parameters.over_prov_factor
    axes.set_title(f"cost per step: idle + {weight:g} x missing servers")
    return draw_bars(
        axes,
        [_title(name, report) for name in names],
        [report.outcomes[name].score.cost_per_step for name in names],
        names.index(AUTOPILOT),
    )


def draw_bars(axes: "Axes", titles: list[str], costs: list[float], own: int) -> bool:
    """A bar for each cost, from the bottom up; `own` is coloured. Returns whether any is cut."""
    end = DEARER_THAN_SHOWN * max(costs[own], min(costs), 1e-9)
    drawn = axes.barh(
        titles,
        [min(cost, end) for cost in costs],
        height=BAR_HEIGHT,
        color=[ALLOCATION if row == own else "#bbbbbb" for row in range(len(costs))],
    )
    axes.bar_label(drawn, [f"{cost:.2f}" for cost in costs], padding=4)
    for row, cost in enumerate(costs):
        if cost > end:
            _mark_cut(axes, row, end)
    axes.set_xlim(0, 1.18 * min(end, max(*costs, 1e-9)))
    axes.set_xticks([])
    return max(costs) > end


def _mark_cut(axes: "Axes", row: int, end: float) -> None:
    """Two slanted white strokes through a bar."""
    for middle in (0.88, 0.91):
        axes.plot(
            [(middle - 0.012) * end, (middle + 0.012) * end],
            [row - BAR_HEIGHT / 2, row + BAR_HEIGHT / 2],
            color="white", linewidth=3, solid_capstyle="butt", gid=CUT,
        )  # fmt: skip


def _title(name: str, report: Report) -> str:
    kind = report.outcomes[name].chosen.get("kind", "learnt")
    return TITLES[name] if kind == "learnt" else f"{TITLES[name]} ({kind})"
