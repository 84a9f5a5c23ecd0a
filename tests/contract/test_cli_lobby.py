"""`backtest --dynamics lobby`: its files are consistent with the dynamics; an error is one line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.policies.store import PolicyStore
from tests.conftest import Autopilot, PublishPolicy

ROWS = 500
SCORED = 150
NUMBERS = [
    "cost_per_step",
    "waiting_mean",
    "waiting_p95",
    "matches_that_wait_pct",
    "idle_server_steps",
    "launches",
    "lost",
]
WAVE = 40 + 25 * np.sin(np.arange(ROWS) / 15) + np.random.default_rng(0).normal(0, 1, ROWS)


@pytest.fixture
def policy(publish_policy: PublishPolicy, tmp_path: Path) -> Path:
    """The folder of a policy that requests the mean of its ten numbers."""
    store = PolicyStore.at(tmp_path / "policies")
    publish_policy(store, "v1")
    return store.files.root.joinpath("default", "v1")


@pytest.fixture
def lead_times(tmp_path: Path) -> Path:
    """A lead of four steps, and of twelve during a third of the scored steps."""
    path = tmp_path / "leads.csv"
    leads = [12 if 50 <= row < 100 else 4 for row in range(SCORED + 7)]
    path.write_text("lead_steps\n" + "".join(f"{lead}\n" for lead in leads))
    return path


def rows_of(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name]) for row in rows])
        for name in rows[0]
        if name != "timestamp"
    }


def check_ledger(
    steps: dict[str, np.ndarray], first_demand: float, weights: dict[str, float]
) -> None:
    """Recompute every step of the dynamics from the decisions file alone."""
    keep = np.minimum(11 / 12, steps["demand"] / np.append(first_demand, steps["demand"][:-1]))
    up, starting, busy, waiting = np.ceil(1.1 * first_demand) + 1, 0.0, first_demand, 0.0
    before = first_demand
    for row in range(len(steps["demand"])):
        now = {name: values[row] for name, values in steps.items()}
        up += now["came_up"]
        starting -= now["came_up"] + now["failed"]
        arrivals = max(now["demand"] - keep[row] * before, 0)
        lost = waiting * 65 / 1300
        wanted = busy * keep[row] + waiting - lost + arrivals
        busy = min(wanted, up)
        waiting = wanted - busy
        cost = (
            weights["idle"] * (up - busy)
            + weights["starting"] * starting
            + weights["waiting"] * waiting
            + weights["lost"] * lost
        )
        found = (arrivals, lost, up, starting, busy, waiting, cost)
        names = ("arrivals", "lost", "up", "starting", "busy", "waiting", "cost")
        assert [now[name] for name in names] == pytest.approx(found, abs=1e-6), row
        launched = max(0, now["raise_level"] - up - starting)
        removed = min(max(0, up + starting - now["keep_level"]), np.floor(up - busy + 1e-9))
        assert now["launched"] == launched
        assert now["removed"] == removed
        assert now["told"] == up + starting + launched - removed
        up, starting, before = up - removed, starting + launched, now["demand"]


def test_backtest_trains_a_policy_and_its_files_are_consistent(
    autopilot: Autopilot, trace: Callable[..., Path], lead_times: Path, tmp_path: Path
) -> None:
    done = autopilot(
        *("backtest", "--trace", str(trace(WAVE)), "--dynamics", "lobby", "--seconds", "2"),
        *("--lead-times", str(lead_times), "--json", "b.json", "--decisions", "d.csv"),
        *("--plot", "b.png"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    document: dict[str, Any] = json.loads((tmp_path / "b.json").read_text())
    assert document["dynamics"] == "lobby"
    assert document["steps"] == SCORED
    assert document["cost_weights"] == {"idle": 1, "starting": 1, "waiting": 5, "lost": 30}
    policies = document["policies"]
    assert {"autopilot", "quantile", "tuned_rule", "adaptive_rule", "buffer"} <= set(policies)
    for scores in policies.values():
        assert all(np.isfinite(scores[name]) for name in NUMBERS)
    steps = rows_of(tmp_path / "d.csv")
    check_ledger(steps, WAVE[ROWS - SCORED - 1], document["cost_weights"])
    own = policies["autopilot"]
    assert steps["cost"].mean() == pytest.approx(own["cost_per_step"])
    assert steps["waiting"].mean() == pytest.approx(own["waiting_mean"])
    assert steps["launched"].sum() == own["launches"]
    assert steps["lost"].sum() == pytest.approx(own["lost"])
    assert (steps["up"] - steps["busy"]).sum() == pytest.approx(own["idle_server_steps"])
    assert (tmp_path / "b.png").stat().st_size > 10_000


def test_the_target_of_a_notebook_policy_is_both_levels_of_the_band(
    autopilot: Autopilot, trace: Callable[..., Path], policy: Path, tmp_path: Path
) -> None:
    done = autopilot(
        *("backtest", "--trace", str(trace(WAVE)), "--dynamics", "lobby", "--policy", str(policy)),
        *("--json", "b.json", "--decisions", "d.csv"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "b.json").read_text())
    assert document["paths"] == 16
    assert document["policies"]["autopilot"]["standard_error"] > 0
    steps = rows_of(tmp_path / "d.csv")
    assert np.array_equal(steps["raise_level"], steps["keep_level"])
    check_ledger(steps, WAVE[ROWS - SCORED - 1], document["cost_weights"])


def test_later_demand_does_not_change_earlier_steps(
    autopilot: Autopilot, trace: Callable[..., Path], policy: Path, tmp_path: Path
) -> None:
    ledgers = []
    other = WAVE.copy()
    other[-20:] *= 3
    for name, demands in (("a", WAVE), ("b", other)):
        path = trace(demands, f"{name}.csv")
        done = autopilot(
            *("backtest", "--trace", str(path), "--dynamics", "lobby", "--policy", str(policy)),
            *("--decisions", f"{name}-d.csv"),
            AUTOPILOT_MAX_SERVERS="300",
        )
        assert done.returncode == 0, done.stderr
        ledgers.append(rows_of(tmp_path / f"{name}-d.csv"))
    for name, values in ledgers[0].items():
        assert np.array_equal(values[:-20], ledgers[1][name][:-20]), name
    assert not np.array_equal(ledgers[0]["demand"], ledgers[1]["demand"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lead\n5\n", "the first line must name the column lead_steps"),
        ("lead_steps\n5\n", f"has 1 rows, and {SCORED} steps are scored: give a row for each"),
        ("lead_steps\nfive\n", "line 2: lead_steps 'five' is not a number"),
        ("lead_steps\n0\n", "line 2: lead_steps '0' can't be"),
        ("lead_steps\nnan\n", "line 2: lead_steps 'nan' can't be"),
    ],
)
def test_invalid_lead_times_are_refused(
    autopilot: Autopilot, trace: Callable[..., Path], tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    done = autopilot(
        *("backtest", "--trace", str(trace(WAVE)), "--dynamics", "lobby"),
        *("--lead-times", "bad.csv"),
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        (("--lead-times", "leads.csv"), {}, "--lead-times goes with --dynamics lobby"),
        (("--dynamics", "lobby"), {"AUTOPILOT_REWARD": "notebook"}, "AUTOPILOT_REWARD=notebook"),
        (("--dynamics", "lobby"), {"AUTOPILOT_LEARNING": "on_policy"}, "AUTOPILOT_LEARNING"),
        (("--dynamics", "lobby", "--train-fraction", "0.1"), {}, "give a longer trace"),
    ],
)
def test_options_that_contradict_the_lobby_are_refused(
    autopilot: Autopilot,
    trace: Callable[..., Path],
    words: tuple[str, ...],
    variables: dict[str, str],
    says: str,
) -> None:
    done = autopilot("backtest", "--trace", str(trace(WAVE)), *words, **variables)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
