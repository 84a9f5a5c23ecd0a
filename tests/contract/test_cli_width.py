"""What the commands print fits 80 columns, with fleets and versions of usual length."""

from io import StringIO

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.evaluate import print_rewards
from services.cli.gate_decisions import print_decisions
from services.cli.output import print_table, print_text
from services.cli.policies import list_policies
from services.cli.report import print_report
from services.cli.up import Platform
from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.backtest import AUTOPILOT, Case, RecordedDemand, Report, baselines
from shared.policies.store import PolicyStore
from shared.settings import load_fleets, load_settings
from tests.conftest import a_verdict, free_port

COLUMNS = 80
FLEET = "eu-central-1-ranked"
VERSION = "20261128T175555Z-1f3a9c"
LONG = "the trained policy cost more on the held-out part of the history " * 4


def commands(group: typer.main.TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every command and group."""
    found = [path]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*path, name))
    return found


def console() -> Console:
    return Console(file=StringIO(), width=COLUMNS)


def printed(target: Console) -> str:
    assert isinstance(target.file, StringIO)
    text = target.file.getvalue()
    assert text
    assert max(map(len, text.splitlines())) <= COLUMNS, text
    return text


@pytest.mark.parametrize("path", commands(typer.main.get_command(app)), ids=" ".join)
def test_the_help_of_every_command(path):
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(COLUMNS)})
    assert shown.exit_code == 0
    assert "Usage" in shown.output
    assert max(map(len, shown.output.splitlines())) <= COLUMNS


def test_text_is_wrapped_between_words_and_an_address_stays_whole():
    target, path = console(), "/" + "a" * 100
    print_text(target, LONG)
    assert " ".join(printed(target).split()) == LONG.strip()
    target = console()
    print_text(target, f"[red] {path} {LONG}")
    assert path in target.file.getvalue().split()


def test_a_table_cuts_the_columns_that_may_shrink_and_no_other():
    target = console()
    row = (FLEET * 4, VERSION, "12345.67", "[bold]\x1b[31m")
    print_table(
        target, ("fleet", "version", "cost", ""), [row], right={"cost"}, shrinking={"fleet"}
    )
    assert printed(target).splitlines()[1].split() == [
        *(f"{FLEET * 4}"[:34] + "…", VERSION, "12345.67", "[bold]?[31m")
    ]


@pytest.fixture
def settings(monkeypatch, tmp_path):
    fleets = tmp_path / "fleets.toml"
    fleets.write_text(f"[default]\n[{FLEET}]\nlearning_freq = 1\n")
    monkeypatch.setenv("AUTOPILOT_FLEETS", str(fleets))
    monkeypatch.setenv("AUTOPILOT_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("AUTOPILOT_POLICY_STORE", str(tmp_path / "policies"))
    return load_settings()


def test_policies_without_redis(settings, publish_policy, tmp_path):
    scores = {"gate_cost candidate": 1234.5, "gate_cost rule:trend_buffer": 98765.4}
    publish_policy(PolicyStore.at(tmp_path / "policies"), VERSION, scores=scores)
    target = console()
    list_policies(settings, load_fleets(settings), 10, target, as_json=False)
    text = printed(target)
    assert VERSION in text
    assert "98765.40" in text
    assert f"training of {FLEET}: unknown" in text


def test_gate_decisions():
    costs = {"candidate": 12345.678, VERSION: 9876.5, "rule:trend_buffer": 34567.8}
    decisions = [
        a_verdict(outcome="published", version=VERSION, champion=VERSION, costs=costs),
        a_verdict(outcome="failed", version=None, error=LONG),
    ]
    target = console()
    print_decisions(target, FLEET, decisions)
    text = printed(target)
    assert VERSION in text
    assert "34567.80" in text


def test_the_status_of_a_running_platform(settings):
    target = console()
    platform = Platform(settings, load_fleets(settings), None, settings.fleets, target)
    platform._print_table(
        [(FLEET, f"general-5-{VERSION}", "99999.9", "99999.9", "99999", "shadow")]
    )
    assert "99999.9 99999.9  99999 shadow" in printed(target)


def test_a_backtest_and_an_evaluation():
    demands: FloatArray = 1e5 + 1e4 * np.sin(np.arange(150.0) / 9)
    history = History(60 * np.arange(150.0), demands, 60.0)
    parameters = FleetParameters(max_servers=300_000, action_factor=1e5)
    case = Case(RecordedDemand("a-trace-of-demand", (), history, False), 100, parameters)
    outcomes, notes = baselines(case)
    outcomes[AUTOPILOT] = outcomes["buffer"]
    target = console()
    print_report(Report(case, outcomes, [*notes, LONG]), target)
    print_rewards(f"policy {VERSION}", "a-trace-of-demand", -1e7 * np.arange(3.0), target)
    assert "perfect foresight" in printed(target)
