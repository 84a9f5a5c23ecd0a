"""`backtest`, `train`, `evaluate`: files that agree with each other; a mistake is one line."""

import csv
import errno
import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from services.cli import learning_commands
from services.cli.files import write_whole
from shared.errors import BadInput
from shared.learning import extras
from shared.messages import PolicyManifest, utc_now
from shared.policies.runtime import PRETRAINED, PRETRAINED_STORE
from shared.policies.store import CHECKPOINT, LITERT_MODEL, MANIFEST, PolicyStore, seal
from tests.conftest import STEP
from tests.contract.test_trainer_on_policy import PARAMETERS, transitions_of

WAVE = [40 + 30 * np.sin(row / 12) for row in range(120)]
FIELDS = ["cost_per_step", "under_steps_pct", "unserved_server_steps", "idle_server_steps"]


@pytest.fixture
def policy(publish_policy, tmp_path):
    """The folder of a policy that asks for the mean of its ten numbers."""
    store = PolicyStore.at(tmp_path / "policies")
    publish_policy(store, "v1")
    return store.files.root.joinpath("default", "v1")


def learn_on_policy_and_export(folder):
    """A policy with its checkpoint at `folder`, for fleets of 20 to 100; policies/ beside it."""
    from shared.learning.export.writer import export
    from shared.learning.on_policy.training import Job, learn_on_policy

    parameters = replace(PARAMETERS, min_servers=20.0)
    job = Job("default", "v1", parameters, gamma=0.9, batch_size=128, seconds=60.0, seed=0)
    store = PolicyStore.at(folder.parent / "policies")
    draft = folder.with_name(".draft")
    draft.mkdir()
    learnt = learn_on_policy(transitions_of(128), job, store, draft / CHECKPOINT)
    export(learnt.module, draft)
    manifest = PolicyManifest.draft(parameters, version="v1", fleet="default", created_at=utc_now())
    seal(manifest, draft, folder)


def refused(result, says):
    code, _, err = result
    assert code == 2, err
    assert says in err
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err


def commands(path, tmp_path, policy):
    out = ("--out", tmp_path / "out")
    return {
        "backtest": (
            "backtest",
            "--trace",
            path,
            "--policy",
            policy,
            "--json",
            tmp_path / "b.json",
        ),
        "learning backtest": ("backtest", "--trace", path, "--decisions", tmp_path / "d.csv"),
        "train": ("train", "--trace", path, *out),
        "evaluate": ("evaluate", "--trace", path, "--policy", policy),
    }


HEAD = "timestamp,demand\n"


@pytest.mark.parametrize("command", ["backtest", "learning backtest", "train", "evaluate"])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "can't read the trace"),
        ("", "column demand and timestamp is missing"),
        ("time,demand\n2024-06-12,1\n", "column timestamp is missing"),
        (HEAD, "no rows"),
        (HEAD + "2024-06-12,10\n", "has 1 rows"),
        ("timestamp,players\n2024-06-12,1\n", "column demand is missing"),
        (HEAD + "2024-06-12,ten\n", "line 2"),
        (HEAD + "now,10\n", "line 2"),
        (HEAD + "2024-06-12,\n", "line 2"),
        (HEAD + "2024-06-12,-1\n", "not negative"),
        (HEAD + "2024-06-12,nan\n", "must be finite"),
        (HEAD + "2024-06-12\n", "line 2"),
        (HEAD + "0001-01-01T00:00:00+14:00,1\n", "is not a time"),
        (HEAD + "2024-06-12,1\n9999-12-31T23:00:00-10:00,1\n", "line 3"),
        (HEAD + "2024-06-12,1\n2024-06-11,1\n", "time runs backwards"),
        (HEAD + "2024-06-12,1\n2024-06-12,1\n", "2024-06-12T00:00:00Z occurs twice"),
        (HEAD + "2024-06-12,10000001\n", "raise --players-per-server"),
    ],
)
def test_a_trace_that_is_none_leaves_nothing_behind(run, tmp_path, policy, command, rows, says):
    path = tmp_path / "bad.csv"
    if rows is not None:
        path.write_text(rows)
    before = sorted(tmp_path.rglob("*"))
    refused(run(*commands(path, tmp_path, policy)[command]), says)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "either --trace CSV or --demand"),
        (("--trace", "trace.csv", "--demand", "sine1h"), "either --trace CSV or --demand"),
        (("--demand", "square"), "sine1h"),
        (("--demand", "sine1h", "--peak-servers", "9"), "go with --trace"),
        (("--trace", "trace.csv", "--players-per-server", "0"), "--players-per-server"),
        (("--trace", "trace.csv", "--peak-servers", "-1"), "--peak-servers"),
        (("--trace", "trace.csv", "--peak-servers", "1", "--players-per-server", "1"), "not both"),
        (("--trace", "trace.csv", "--train-fraction", "1.5"), "--train-fraction"),
        (("--trace", "trace.csv", "--train-fraction", "0.05"), "to learn from"),
        (("--trace", "trace.csv", "--seconds", "0"), "--seconds"),
        (("--trace", "trace.csv", "--seconds", "nan"), "--seconds"),
        (("--trace", "trace.csv", "--seconds", "1e6"), "at most 604800"),
        (("--trace", "trace.csv", "--steps", "0"), "--steps"),
        (("--trace", "trace.csv", "--steps", "9", "--seconds", "9"), "--seconds or --steps"),
        (("--trace", "trace.csv", "--history-len", "1"), "HISTORY_LEN"),
        (("--trace", "trace.csv", "--history-len", "200"), "a longer trace"),
        (("--trace", "trace.csv", "--json", "nowhere/b.json"), "there is no folder"),
        (("--trace", "trace.csv", "--decisions", "policies"), "is a folder"),
        (("--trace", "trace.csv", "--seed", "-1"), "'--seed'"),
        (("--trace", "trace.csv", "--seed", "4294967296"), "'--seed'"),
        (("--trace", "trace.csv", "--train-fraction", "abc"), "'--train-fraction'"),
        (("--trace", "trace.csv", "--plot", "b.xyz"), "--plot b.xyz: end the name in one of .png"),
        (("--trace", "trace.csv", "--plot", "b"), "end the name in one of .png"),
        (("--trace",), "'--trace' requires an argument"),
        (("--traces", "trace.csv"), "No such option: --traces"),
        (("trace.csv",), "unexpected extra argument"),
        (("--trace", "trace.csv", "--policy", "nowhere"), "no policy.json"),
        (("--trace", "trace.csv", "--policy", "policies/default/v1", "--history-len", "7"), "v1"),
    ],
)
def test_a_wrong_option_is_named(run, trace, policy, arguments, says):
    trace(WAVE)
    refused(run("backtest", *arguments), says)


def test_a_setting_that_contradicts_the_data_is_named(run, trace, policy, monkeypatch):
    monkeypatch.setenv("AUTOPILOT_MIN_SERVERS", "500")
    refused(run("backtest", "--trace", trace(WAVE), "--policy", policy), "are not a range")


def test_a_seed_that_no_generator_takes_is_refused(run, policy, monkeypatch):
    for seed in ("-1", "4294967296", "now"):
        refused(run("evaluate", "--policy", policy, "--seed", seed), "'--seed'")
    code, out, err = run("evaluate", "--policy", policy, "--seed", "4294967295")
    assert code == 0, err
    assert "mean reward" in out
    monkeypatch.setenv("AUTOPILOT_SEED", "-1")
    refused(run("evaluate", "--policy", policy), "AUTOPILOT_SEED='-1'")


def test_what_can_not_be_parsed_is_one_line(run):
    refused(run("train", "--demand", "sine1h"), "Missing option '--out'")
    refused(run("trane"), "Did you mean 'train'")
    refused(run("policies", "show"), "Missing argument 'version'")


@pytest.mark.parametrize("command", [(), ("backtest",), ("policies",), ("policies", "show")])
def test_help_is_no_mistake(run, command):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out


def test_what_can_not_be_written_is_refused_before_the_work(run, trace, policy, tmp_path):
    replay = ("backtest", "--trace", trace(WAVE), "--policy", policy)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    for path, says in (
        ("/proc/b.json", "can't be written to"),
        ("pipe", "not a regular file"),
        ("to_pipe", "not a regular file"),
    ):
        refused(run(*replay, "--json", path), says)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "to_pipe").is_symlink()


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    def write(path):
        path.write_text("half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "b.json").write_text("old")
    with pytest.raises(BadInput, match="No space left on device: make room"):
        write_whole(tmp_path / "b.json", write)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    assert (tmp_path / "b.json").read_text() == "old"


def test_what_the_system_refuses_is_one_line(run, trace, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b.json")

    monkeypatch.setattr(learning_commands, "prepare", full)
    refused(run("backtest", "--trace", trace(WAVE)), "a/b.json: No space left on device")


def test_a_link_stays_one(run, trace, policy, tmp_path):
    (tmp_path / "link.json").symlink_to("b.json")
    replay = ("backtest", "--trace", trace(WAVE), "--policy", policy)
    code, _, err = run(*replay, "--json", "link.json")
    assert code == 0, err
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "b.json").read_text())["steps"] == 36


def test_a_folder_that_can_not_be_made_new_is_refused_first(run, trace, tmp_path, monkeypatch):
    path = trace(WAVE)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    refused(run("train", "--trace", path, "--out", tmp_path / "link"), "is there already")
    monkeypatch.chdir(empty)
    for here in (".", empty):
        refused(run("train", "--trace", path, "--out", here), "the folder that you are in")
    assert not list(empty.iterdir())


def test_a_damaged_policy_is_refused(run, trace, policy):
    (policy / LITERT_MODEL).write_bytes(b"no model")
    refused(run("backtest", "--trace", trace(WAVE), "--policy", policy), "sha256")
    (policy / MANIFEST).write_text("{}")
    refused(run("evaluate", "--policy", policy), "not a policy manifest")


def test_the_extra_that_is_missing_is_named(run, trace, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "_installed", lambda name: name != "ray")
    refused(run("backtest", "--trace", trace(WAVE)), "gameserver-autopilot[trainer]")
    refused(run("train", "--trace", trace(WAVE), "--out", "new"), "learning needs ray")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [("backtest",), ("train", "--out", "new")])
def test_recorded_demand_is_not_learnt_from_on_policy(run, trace, tmp_path, monkeypatch, command):
    monkeypatch.setenv("AUTOPILOT_LEARNING", "on_policy")
    refused(run(*command, "--trace", trace(WAVE)), "set AUTOPILOT_LEARNING=replay, or run")
    assert not (tmp_path / "new").exists()


def test_a_policy_is_replayed_whatever_fleets_learn_by(run, trace, policy, monkeypatch):
    monkeypatch.setenv("AUTOPILOT_LEARNING", "on_policy")
    code, _, err = run("backtest", "--trace", trace(WAVE), "--policy", policy)
    assert code == 0, err


def test_train_does_not_write_over_what_is_there(run, trace, policy):
    refused(run("train", "--trace", trace(WAVE), "--out", policy), "is there already")


def test_evaluate_names_what_it_can_not_find(run, trace, policy):
    refused(run("evaluate", "--policy", "v9"), "no such folder, and no such version")
    refused(run("evaluate", "--policy", policy, "--episodes", "0"), "--episodes")
    refused(run("evaluate", "--policy", policy, "--trace", trace(WAVE)), "an episode takes")


def test_json_and_decisions_agree(run, trace, policy, tmp_path):
    path = trace(WAVE)
    code, out, err = run(
        "backtest", "--trace", path, "--policy", policy, "--json", "b.json", "--decisions", "d.csv"
    )
    assert code == 0, err
    assert "autopilot" in out
    with (tmp_path / "d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "timestamp", "demand", "target", "allocation"]
    assert [int(row["step"]) for row in rows] == list(range(84, 120))
    demand, target, allocation = (
        np.array([float(row[name]) for row in rows]) for name in ("demand", "target", "allocation")
    )
    assert demand.tolist() == pytest.approx(WAVE[84:])
    assert allocation[5:].tolist() == target[:-5].tolist()
    report = json.loads((tmp_path / "b.json").read_text())
    assert (report["trace"], report["steps"]) == ("trace", 36)
    assert report["cost_weights"] == {"over": 1, "under": 5}
    idle, short = np.maximum(allocation - demand, 0), np.maximum(demand - allocation, 0)
    ours = report["policies"]["autopilot"]
    assert [ours[name] for name in FIELDS] == pytest.approx(
        [(idle + 5 * short).mean(), 100 * (short > 0).mean(), short.sum(), idle.sum()]
    )
    assert report["policies"]["oracle"]["cost_per_step"] == 0
    assert not list(tmp_path.glob(".*"))


ODD = [
    pytest.param([7.0] * 120, id="constant"),
    pytest.param([0.0] * 120, id="all zero"),
    pytest.param([*WAVE[:100], *(1000 * np.array(WAVE[100:]))], id="a jump of 1000 times"),
    pytest.param([*([0.0] * 100), *WAVE[100:]], id="no demand to learn from"),
]


def is_sensible(report):
    policies = json.loads(report.read_text())["policies"]
    assert all(np.isfinite(scores[name]) for scores in policies.values() for name in FIELDS)


@pytest.mark.parametrize("demands", ODD)
def test_odd_demand_has_a_sensible_result(run, trace, policy, tmp_path, demands):
    code, _, err = run(
        "backtest", "--trace", trace(demands), "--policy", policy, "--json", "b.json"
    )
    assert code == 0, err
    is_sensible(tmp_path / "b.json")


@pytest.mark.parametrize("demands", ODD)
def test_odd_demand_has_sensible_rewards(run, trace, policy, demands):
    code, out, err = run("evaluate", "--trace", trace(3 * demands), "--policy", policy)
    assert code == 0, err
    rewards = [float(cell) for cell in out.splitlines()[-1].split()]
    assert len(rewards) == 3
    assert np.isfinite(rewards).all()


@pytest.mark.parametrize("demands", [pytest.param(WAVE, id="a wave"), *ODD])
def test_what_train_writes_can_be_replayed(run, trace, tmp_path, ray_running, demands):
    path = trace(demands)
    code, _, err = run("train", "--trace", path, "--out", "p", "--seconds", "0.1")
    assert code == 0, err
    code, _, err = run("backtest", "--trace", path, "--policy", "p", "--json", "b.json")
    assert code == 0, err
    is_sensible(tmp_path / "b.json")
    assert not list(tmp_path.glob(".*"))


def test_no_demand_has_no_peak(run, trace, policy):
    path = trace([0.0] * 120)
    refused(
        run("backtest", "--trace", path, "--policy", policy, "--peak-servers", "9"),
        "--peak-servers",
    )


@pytest.mark.parametrize("command", ["backtest", "evaluate"])
def test_gaps_in_time_are_steps_like_others(run, tmp_path, policy, command):
    path = tmp_path / "gaps.csv"
    start = datetime(2024, 6, 12, tzinfo=UTC)
    moments = [start + (number + (number > 60) * 500) * STEP for number in range(360)]
    path.write_text(
        HEAD + "".join(f"{m.isoformat()},{d}\n" for m, d in zip(moments, 3 * WAVE, strict=True))
    )
    code, _, err = run(command, "--trace", path, "--policy", policy)
    assert code == 0, err


def test_the_scored_part_changes_no_baseline(run, trace, policy, tmp_path):
    chosen = []
    for demands in (WAVE, [*WAVE[:84], *(3 * np.array(WAVE[84:]))]):
        run("backtest", "--trace", trace(demands), "--policy", policy, "--json", "b.json")
        report = json.loads((tmp_path / "b.json").read_text())
        chosen.append([report["parameters"], *(p["chosen"] for p in report["policies"].values())])
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    "name", ["v1", "policies/default/v1", *PRETRAINED_STORE.versions(PRETRAINED)]
)
def test_evaluate_prints_the_notebooks_figures(run, policy, monkeypatch, name):
    monkeypatch.setenv("AUTOPILOT_POLICY_STORE", "policies")
    code, out, err = run("evaluate", "--policy", name, "--episodes", "2")
    assert code == 0, err
    assert "2 episodes of 301 steps" in out
    assert "mean reward" in out


@pytest.mark.parametrize("options", [(), ("--policy", "p", "--checkpoint", "c")])
def test_evaluate_takes_a_policy_or_a_checkpoint(run, options):
    refused(run("evaluate", *options), "either --policy")


def test_evaluate_from_a_checkpoint_names_the_extra_that_is_missing(run, monkeypatch):
    monkeypatch.setattr(extras, "_installed", lambda name: name != "ray")
    refused(run("evaluate", "--checkpoint", "c"), "--checkpoint needs ray: pip install")


def test_evaluate_from_a_checkpoint_says_the_same_as_of_its_policy(
    run, tmp_path, monkeypatch, ray_running
):
    """Of what an on-policy batch has led to: its artefact, its checkpoint, its working folder."""
    learn_on_policy_and_export(tmp_path / "p")

    def rewards(*options):
        code, out, err = run("evaluate", "--episodes", "3", *options)
        assert code == 0, err
        _, _, table = out.partition("min reward")
        return [float(number) for number in re.findall(r"-\d+\.\d\d", table)]

    of_policy = rewards("--policy", "p")
    assert len(of_policy) == 3
    assert rewards("--checkpoint", "p/checkpoint") == pytest.approx(of_policy, rel=1e-3)
    batch = "policies/default/.on_policy/batch-000001"
    assert rewards("--checkpoint", batch) != pytest.approx(of_policy, rel=1e-3), "other limits"
    monkeypatch.setenv("AUTOPILOT_MIN_SERVERS", "20")
    assert rewards("--checkpoint", batch) == pytest.approx(of_policy, rel=1e-3)

    refused(run("evaluate", "--checkpoint", "p/checkpoint", "--episodes", "0"), "--episodes")
    refused(run("evaluate", "--checkpoint", "nowhere"), "--checkpoint nowhere: ")
    refused(run("evaluate", "--checkpoint", "p"), "AUTOPILOT_SAVE_MODEL=1")
    pickled = next((tmp_path / "p").rglob("default_policy/class_and_ctor_args.pkl"))
    pickled.write_bytes(b"cut o")
    refused(run("evaluate", "--checkpoint", "p/checkpoint"), "does not match its sha256")


def test_forecasters_beat_nothing_on_a_clean_wave_and_do_not_see_the_future():
    pytest.importorskip("lightgbm")
    pytest.importorskip("statsmodels")
    from shared.core.history import History
    from shared.core.parameters import FleetParameters
    from shared.learning.forecasters import fit_forecasters

    parameters = FleetParameters(0.0, 1000.0)
    demands = 50 + 40 * np.sin(np.arange(480) * 2 * np.pi / 24)
    times = np.arange(480) * 3600.0
    training = History(times[:360], demands[:360], 3600.0)
    fitted, notes = fit_forecasters(training, parameters)
    assert not notes
    changed = np.where(np.arange(480) >= 400, 5.0, demands)
    for name, forecaster in fitted.items():
        before = forecaster.decisions(History(times, demands, 3600.0), parameters)
        after = forecaster.decisions(History(times, changed, 3600.0), parameters)
        assert before[:400].tolist() == after[:400].tolist(), name
        missed = np.abs(before[360:-6] - demands[366:]).mean()
        assert missed < 5, name


def test_backtest_learns_and_draws(run, trace, tmp_path, ray_running):
    path = trace([40 + 30 * np.sin(row / 12) for row in range(190)])
    code, _, err = run(
        "backtest",
        "--trace",
        path,
        "--steps",
        1,
        "--seed",
        7,
        "--json",
        "b.json",
        "--plot",
        "b.png",
    )
    assert code == 0, err
    policies = json.loads((tmp_path / "b.json").read_text())["policies"]
    chosen = policies["autopilot"]["chosen"]
    assert (chosen["steps"], chosen["seed"], chosen["environment_steps"]) == (1, 7, 16_384)
    assert policies["autopilot"]["cost_per_step"] < policies["buffer"]["cost_per_step"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))
