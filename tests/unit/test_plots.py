"""The backtest's picture: bars that are cut say so, and so does a rule that serves."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from services.cli.plots import CUT, DEARER_THAN_SHOWN, draw
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.backtest import AUTOPILOT, ORACLE, Case, RecordedDemand, Report

pytest.importorskip("matplotlib", reason="matplotlib comes with the extra trainer")

IDLE = {"constant": 60.0, "buffer": 20.0, "last_demand": 5.0, AUTOPILOT: 4.0, ORACLE: 0.0}
"""Servers idle at every step, which is the cost a step."""


def picture(idle=IDLE, **chosen):
    times = tuple(datetime(2024, 6, 12, tzinfo=UTC) + timedelta(minutes=row) for row in range(40))
    seconds = np.array([time.timestamp() for time in times])
    history = History(seconds, np.full(40, 10.0), step_seconds=60.0)
    case = Case(RecordedDemand("flat", times, history, has_limits=True), 20, FleetParameters())
    outcomes = {name: case.outcome(history.demands + servers) for name, servers in idle.items()}
    outcomes[AUTOPILOT] = case.outcome(history.demands + idle[AUTOPILOT], **chosen)
    figure = draw(Report(case, outcomes, []))
    series, bars = figure.axes
    return figure, series, bars


def named(bars):
    return [label.get_text() for label in bars.get_yticklabels()]


def strokes(bars):
    """How many of them, by the row of the bar that they go through."""
    rows = [round(float(np.mean(line.get_ydata()))) for line in bars.lines if line.get_gid() == CUT]
    return {row: rows.count(row) for row in rows}


def test_only_bars_that_are_cut_have_a_break_and_every_bar_its_number():
    figure, _, bars = picture()
    assert named(bars) == ["constant", "last demand + buffer", "last demand", "autopilot"]
    assert [text.get_text() for text in bars.texts] == ["60.00", "20.00", "5.00", "4.00"]
    end = DEARER_THAN_SHOWN * 4.0
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([end, end, 5.0, 4.0])
    assert strokes(bars) == {0: 2, 1: 2}
    for line in bars.lines:
        assert line.get_color() == "white"
        assert 0 < min(line.get_xdata()) < max(line.get_xdata()) < end, "inside the bar"
    assert figure.get_supxlabel() == "A bar with a break in it is cut short: see its number."


def test_without_a_cut_bar_nothing_is_said_below():
    figure, _, bars = picture({"buffer": 5.0, AUTOPILOT: 4.0})
    assert strokes(bars) == {}
    assert figure.get_supxlabel() == ""


@pytest.mark.parametrize(
    ("chosen", "bar", "says"),
    [
        ({"kind": "rule:constant"}, "autopilot (rule:constant)", "autopilot is rule:constant"),
        ({"kind": "learnt", "beside": "rule:buffer"}, "autopilot", "a mixture with rule:buffer"),
    ],
)
def test_a_rule_that_serves_or_helps_is_named(chosen, bar, says):
    figure, _, bars = picture({"buffer": 5.0, AUTOPILOT: 4.0}, **chosen)
    assert named(bars)[-1] == bar
    assert says in figure.get_supxlabel()


def test_the_newest_steps_are_drawn():
    _, series, _ = picture()
    demand, up = series.lines
    assert list(demand.get_ydata()) == [10.0] * 20
    assert list(up.get_ydata()) == [14.0] * 20
    assert "20 steps" in series.get_title()
