"""Whole runs of the commands that learn: ended half-way, repeated, with another future."""

import csv
import hashlib
import os
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest

from services.cli.backtest import prepare
from services.cli.demand import Source
from services.cli.supervision import service_command
from shared.core.replay import decide
from shared.learning.backtest import ORACLE, baselines
from shared.learning.selection.contenders import tuned_rules
from shared.policies.store import LITERT_MODEL
from shared.settings import FleetSettings

WAVE = [
    40 + 30 * np.sin(row / 12) + noise
    for row, noise in enumerate(np.random.default_rng(0).normal(0, 2, 240))
]
START = 168
"""First scored row: seven tenths."""
LAST = 200
"""Demand after this step is another in the other future."""
FUTURES = {
    "three times": [*WAVE[: LAST + 1], *(3 * np.array(WAVE[LAST + 1 :]))],
    "nothing": [*WAVE[: LAST + 1], *([0.0] * (len(WAVE) - LAST - 1))],
}


def started(folder, *arguments):
    """A command as a process, and leader of a process group, as a shell starts it."""
    return subprocess.Popen(
        service_command("services.cli", *map(str, arguments)),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (signal.SIGTERM, ("train", "--out", "out", "--seconds", "600")),
        (signal.SIGINT, ("backtest", "--json", "b.json", "--seconds", "600")),
    ],
)
def test_a_signal_in_mid_learning_ends_with_one_line(trace, tmp_path, number, arguments):
    path = trace(WAVE)
    before = sorted(tmp_path.rglob("*"))
    command = started(tmp_path, *arguments, "--trace", path)
    deadline = time.monotonic() + 120
    while "raylet" not in {child.name() for child in children(command)}:
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(20)
    of_ray = children(command)
    # Ctrl-C reaches the whole group, and people press it twice.
    for _ in range(2):
        os.killpg(command.pid, number)
        time.sleep(0.2)
    _, told = command.communicate(timeout=240)
    assert command.returncode == 128 + number, told
    ours = [
        line for line in told.splitlines() if "cudart_stub" not in line and "absl::" not in line
    ]
    assert ours == [f"autopilot: stopped by {number.name}; nothing is left half-written"]
    assert sorted(tmp_path.rglob("*")) == before
    _, alive = psutil.wait_procs(of_ray, timeout=20)
    assert [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_same_seed_and_steps_make_the_same_policy(trace, tmp_path):
    """In processes of their own, so that nothing but the options is the same."""
    path = trace(np.tile(WAVE, 4))  # of less, nobody learns more than the general policy knows
    digests = []
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        command = started(
            tmp_path, "train", "--trace", path, "--out", out, "--steps", 1, "--seed", seed
        )
        _, told = command.communicate(timeout=600)
        assert command.returncode == 0, told
        digests.append(hashlib.sha256((tmp_path / out / LITERT_MODEL).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def case_of(path):
    return prepare(Source(path, None), FleetSettings(), 0.7, None)


@pytest.mark.parametrize("future", FUTURES)
def test_no_baseline_sees_the_future(trace, future):
    here, there = (baselines(case_of(trace(demands)))[0] for demands in (WAVE, FUTURES[future]))
    differ = {
        name: np.flatnonzero(here[name].replay.targets != there[name].replay.targets)
        for name in here
    }
    assert differ[ORACLE][0] <= LAST + 1, "who does see it is found out"
    for name in differ.keys() - {ORACLE}:
        assert not len(differ[name]) or differ[name][0] == LAST + 2, name
    assert len(differ["buffer"])


@pytest.mark.parametrize("future", FUTURES)
def test_no_rule_that_the_gate_serves_sees_the_future(trace, future):
    decided = []
    rows = np.arange(START, len(WAVE))
    for demands in (WAVE, FUTURES[future]):
        case = case_of(trace(demands))
        rules = tuned_rules(case.training, case.parameters)
        decided.append(
            {
                name: decide(rule, case.history, case.parameters, rows)
                for name, rule in rules.items()
            }
        )
    for name, here in decided[0].items():
        # What is decided after a row is asked for one step later.
        differ = START + 1 + np.flatnonzero(here != decided[1][name])
        assert not len(differ) or differ[0] == LAST + 2, name
    assert len(decided[0]) == 5
    assert (decided[0]["rule:buffer"] != decided[1]["rule:buffer"]).any()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_backtest_learns_does_not_see_the_future(trace, tmp_path):
    asked = []
    for name, demands in (("here", WAVE), ("there", FUTURES["three times"])):
        path, decisions = trace(demands, f"{name}.csv"), tmp_path / f"decisions-{name}.csv"
        command = started(
            tmp_path, "backtest", "--trace", path, "--steps", 1, "--decisions", decisions
        )
        _, told = command.communicate(timeout=600)
        assert command.returncode == 0, told
        with decisions.open(newline="") as file:
            asked.append({int(row["step"]): row["target"] for row in csv.DictReader(file)})
    differ = [step for step in asked[0] if asked[0][step] != asked[1][step]]
    assert list(asked[0]) == list(range(START, len(WAVE)))
    assert differ[0] == LAST + 2
