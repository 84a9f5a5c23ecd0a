"""Whole runs of the commands that learn: ended half-way, repeated, with another future."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from services.cli import learner
from services.cli.backtest import prepare
from services.cli.demand import Source
from services.cli.supervision import service_command
from shared.core.replay import decide
from shared.learning.backtest import ORACLE, baselines, parameters_for, trained
from shared.learning.budget import TrainingOptions
from shared.learning.selection.contenders import tuned_rules
from shared.messages import utc_now
from shared.policies.store import LITERT_MODEL
from shared.settings import FleetSettings
from tests.eventually import eventually
from tests.policies import LITTLE

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


OF_ITS_OWN = """
import sys
from pathlib import Path
from tests.contract.test_learning_runs import digest_of

print(digest_of(Path(sys.argv[1]), Path(sys.argv[2]), seed=3))
"""


@pytest.mark.timeout(240)
def test_ctrl_c_in_mid_learning_ends_with_one_line(trace, tmp_path):
    path = trace(WAVE)
    before = sorted(tmp_path.rglob("*"))
    words = ("train", "--out", "out", "--seconds", "600", "--trace", str(path))
    command = subprocess.Popen(
        service_command("services.cli", *words),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a shell does
    )

    def begun():
        assert command.poll() is None, command.communicate()
        # Ray runs, and there is a place to write to after learning.
        return list(tmp_path.glob(".out.*.partial"))

    eventually(begun, "it learns")
    of_ray = psutil.Process(command.pid).children(recursive=True)
    assert "raylet" in {child.name() for child in of_ray}
    # Ctrl-C reaches the whole group, and people press it twice.
    for _ in range(2):
        os.killpg(command.pid, signal.SIGINT)
        time.sleep(0.2)
    _, told = command.communicate()
    assert command.returncode == 128 + signal.SIGINT, told
    assert told == "autopilot: stopped by SIGINT; nothing is left half-written\n"
    assert sorted(tmp_path.rglob("*")) == before
    _, alive = psutil.wait_procs(of_ray, timeout=20)
    assert [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_signal_in_mid_learning_ends_with_one_line(
    run, trace, tmp_path, monkeypatch, ray_running
):
    """While PPO learns, before anything is there to be written."""
    from shared.learning import progress

    def reporting(*_):
        def on_progress(reached):
            if reached.environment_steps:
                os.kill(os.getpid(), signal.SIGTERM)

        return on_progress

    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(learner, "reporting", reporting)
    path = trace(WAVE)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run("backtest", "--json", "b.json", "--seconds", "600", "--trace", path)
    assert code == 128 + signal.SIGTERM
    assert err == "autopilot: stopped by SIGTERM; nothing is left half-written\n"
    assert sorted(tmp_path.rglob("*")) == before


def digest_of(path, out, seed):
    """What `train` writes of a trace after learning a little."""
    fleet = FleetSettings()
    demand = Source(path, None).read(fleet)
    parameters = parameters_for(demand, len(demand.history.demands), fleet, None)
    options = TrainingOptions(fleet.gamma, seed, LITTLE)
    with learner.trainer():
        manifest = learner.write_artefact(
            out, demand.history, parameters, options, utc_now(), lambda *_: None, save_model=False
        )
    return manifest.sha256[LITERT_MODEL]


def test_the_same_seed_and_steps_make_the_same_policy(trace, tmp_path, ray_running):
    """Also in a process of its own, so that nothing but the options is the same."""
    import ray

    path = trace(np.tile(WAVE, 4))  # of less, nobody learns more than the general policy knows
    elsewhere = subprocess.run(
        [sys.executable, "-c", OF_ITS_OWN, str(path), str(tmp_path / "a")],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert digest_of(path, tmp_path / "b", seed=3) == elsewhere.stdout.strip()
    assert digest_of(path, tmp_path / "c", seed=4) != elsewhere.stdout.strip()


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


def test_what_backtest_learns_does_not_see_the_future(trace, ray_running):
    asked = []
    for demands in (WAVE, FUTURES["three times"]):
        outcome = trained(case_of(trace(demands)), TrainingOptions(0.9, 0, LITTLE))
        asked.append(outcome.replay.targets)
    differ = np.flatnonzero(asked[0] != asked[1])
    assert differ[0] == LAST + 2
