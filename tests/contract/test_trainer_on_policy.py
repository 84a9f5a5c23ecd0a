"""`learning=on_policy`: PPO on recorded live transitions, its checkpoints, figures and artefact."""

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from services.environment.step import Due, StepInput, step_fleet
from shared.bus import TRAININGS, Bus
from shared.core.curves import sine1h
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.messages import PolicyManifest, TrainingJob, utc_now
from shared.policies.runtime import RulePolicy, first_action, load_policy
from shared.policies.store import CHECKPOINT, PolicyStore
from shared.settings import Fleets, FleetSettings

PARAMETERS = FleetParameters()
START = datetime(2026, 1, 1, tzinfo=UTC)
WORKING = "default/.on_policy"

METRIC_DEFINITIONS = {
    name: name + r": ([-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?)"
    for name in (
        "episode_reward_mean",
        "episode_reward_max",
        "episode_len_mean",
        "entropy",
        "episode_reward_min",
        "vf_loss",
        "policy_loss",
    )
}
"""The notebook's names and regular expressions."""

KILLED = """
import os, pickle, signal, sys
from shared.learning.extras import quiet_libraries
quiet_libraries()
from shared.learning.on_policy.training import learn_on_policy
from shared.learning.threads import use_one_thread
from shared.logs import configure_logs
from shared.policies.store import PolicyStore

transitions, job = pickle.loads(sys.stdin.buffer.read())
use_one_thread()
formats = iter(["console", None])
configure_logs("trainer", "json", "info")

def after_batch():
    log_format = next(formats)
    if log_format is None:
        os.kill(os.getpid(), signal.SIGKILL)
    configure_logs("trainer", log_format, "info")

learn_on_policy(transitions, job, PolicyStore.at(sys.argv[1]), after_batch=after_batch)
"""
"""Logs a batch as JSON, one for the console, and is killed before the third."""


def commits(steps, first=1):
    """What the environment worker commits, under the rule, on the notebook's sine."""
    record = None
    made = []
    for number in range(1, first + steps):
        at = START + timedelta(seconds=65 * number)
        due = Due(at, 0)
        policy = RulePolicy(PARAMETERS)
        demand = sine1h(number, 90)
        commit = step_fleet(StepInput("default", record, policy, PARAMETERS, due, at, demand))
        record = commit.record
        made.append(commit)
    return made[first - 1 :]


def transitions_of(steps, first=1):
    return [commit.transition for commit in commits(steps, first)]


def changed(transition, **fields):
    return transition.model_copy(update=fields)


@pytest.fixture(scope="module")
def trainer(ray_running):
    """The trainer's modules, with Ray running."""
    from services.trainer import jobs
    from shared.learning.models import checkpoints
    from shared.learning.on_policy import checkpoint_store as working_folder
    from shared.learning.on_policy import episodes
    from shared.learning.on_policy import training as on_policy

    return SimpleNamespace(
        checkpoints=checkpoints,
        episodes=episodes,
        jobs=jobs,
        on_policy=on_policy,
        working_folder=working_folder,
    )


@pytest.fixture
def store(tmp_path):
    return PolicyStore.at(tmp_path / "policies")


def job_of(trainer, version="v1", **fields):
    given = {"gamma": 0.9, "batch_size": 128, "seconds": 60.0, "seed": 0, **fields}
    return trainer.on_policy.Job(fleet="default", version=version, parameters=PARAMETERS, **given)


def results(store):
    return [json.loads(line) for line in store.files.read(f"{WORKING}/results.jsonl").splitlines()]


def newest(trainer, store):
    return trainer.working_folder.WorkingFolder(store, "default").state()


def publish(store, version, checkpoint=None):
    """A champion, with the checkpoint that `checkpoint` writes."""
    manifest = PolicyManifest.draft(
        PARAMETERS, version=version, fleet="default", created_at=utc_now()
    )
    with store.writing("default", version) as folder:
        if checkpoint is not None:
            checkpoint(folder / CHECKPOINT)
        store.publish(manifest, folder)
    store.set_champion("default", version, utc_now())


def weights(module):
    return np.concatenate([value.ravel() for _, value in sorted(module.get_state().items())])


# Which transitions count


def test_stale_ones_gaps_and_other_observations_are_left_out(trainer):
    recorded = transitions_of(6)
    recorded[1] = changed(recorded[1], stale=True)
    recorded[3] = changed(recorded[3], gap_steps=2)
    recorded[5] = changed(recorded[5], observation=(1.0,) * 4)
    kept = trainer.episodes.usable(recorded, PARAMETERS)
    assert [transition.step for transition in kept] == [1, 3, 5]
    assert [len(run) for run in trainer.episodes.runs_of(kept)] == [1, 1, 1]


def test_a_run_ends_with_its_episode_and_where_the_state_jumps(trainer):
    recorded = transitions_of(12, first=EPISODE_STEPS - 4)
    recorded[8] = changed(recorded[8], observation=(50.0,) * 10)
    runs = trainer.episodes.runs_of(recorded)
    assert [[t.step - EPISODE_STEPS for t in run] for run in runs] == [
        [-4, -3, -2, -1, 0],
        [1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert trainer.episodes.runs_of([]) == []


def test_the_figures_are_of_the_running_episode_until_one_has_finished(trainer):
    recorded = [changed(t, reward=float(-t.step)) for t in transitions_of(EPISODE_STEPS + 4)]
    figures_of = trainer.episodes.EpisodeFigures
    seen = trainer.episodes.Episodes().after(recorded[:2]).after(recorded[2:5])
    assert seen.figures() == figures_of(-15.0, -15.0, -15.0, 5.0)
    whole = -EPISODE_STEPS * (EPISODE_STEPS + 1) / 2
    one = seen.after(recorded[5:])
    assert one.figures() == figures_of(whole, whole, whole, 301.0)
    assert one.running.steps == 4


def test_an_episode_ends_though_its_last_step_is_left_out_or_the_fleet_begins_again(trainer):
    recorded = [changed(t, reward=-1.0) for t in transitions_of(EPISODE_STEPS + 4)]
    without_end = trainer.episodes.Episodes().after(recorded[:300]).after(recorded[301:])
    assert [episode.steps for episode in without_end.finished] == [300]
    assert without_end.running.steps == 4
    again = without_end.after(recorded[:3])
    assert [episode.steps for episode in again.finished] == [300, 4]
    assert again.figures() == trainer.episodes.EpisodeFigures(-152.0, -4.0, -300.0, 152.0)


def test_the_figures_are_of_the_last_hundred_episodes(trainer):
    ends = [
        changed(transition, step=number * EPISODE_STEPS, reward=float(number), done=True)
        for number, transition in enumerate(transitions_of(102), start=1)
    ]
    figures = trainer.episodes.Episodes().after(ends).figures()
    assert figures == trainer.episodes.EpisodeFigures(52.5, 102.0, 3.0, 1.0)


def test_a_drawn_action_keeps_the_distribution_that_it_was_drawn_from(trainer):
    import torch

    fresh = trainer.on_policy.module_of(PARAMETERS, 0)
    run = transitions_of(8)
    run[3] = changed(run[3], action=0.5, behaviour=(0.4, 0.05))
    (episode,) = trainer.episodes.episodes_of([run], fresh, 1.0)
    outputs = episode.extra_model_outputs
    inputs, logp = outputs["action_dist_inputs"], outputs["action_logp"]
    assert inputs[3].tolist() == pytest.approx([0.4, math.log(0.05)])
    assert logp[3] == pytest.approx(-2 - math.log(0.05 * math.sqrt(2 * math.pi)))
    others = np.delete(inputs, 3, axis=0)
    seen = [transition.observation for n, transition in enumerate(run) if n != 3]
    _, _, unit = fresh.features(torch.tensor(seen, dtype=torch.float32))
    own = math.exp(float(fresh.log_std.detach())) * unit.detach().numpy()[:, 0] / 100
    assert np.exp(others[:, 1]) == pytest.approx(own, rel=1e-4)
    assert others[:, 0] == pytest.approx(
        [transition.observation[4] / 100 for n, transition in enumerate(run) if n != 3]
    )


# The update


def test_the_settings_are_the_notebooks(trainer):
    group = trainer.on_policy._build(job_of(trainer, gamma=0.7))
    config = group.config
    group.shutdown()
    assert (config.algo_class.__name__, config.use_gae, config.lambda_) == ("PPO", True, 1.0)
    assert config.train_batch_size_per_learner == 128
    assert config.minibatch_size == 32
    assert config.num_epochs == 10
    assert (config.use_kl_loss, config.kl_coeff) == (True, 1.0)
    assert config.lr == 1e-4
    assert config.gamma == 0.7, "the parameter, not the 0 that the notebook writes"


@pytest.mark.parametrize("drawn", [False, True])
def test_the_mean_moves_towards_what_was_paid_and_away_when_rewards_are_reversed(
    trainer, store, drawn
):
    """Every other action is above the policy's own, and is paid for; then the reverse."""
    fresh = trainer.on_policy.module_of(PARAMETERS, 0)
    recorded = transitions_of(256)
    observations = np.array([transition.observation for transition in recorded])
    before = fresh.actions(observations)

    def moved(sign):
        made = []
        for k, transition in enumerate(recorded):
            side = 1 if k % 2 else -1
            action = float(before[k, 0]) + side * 0.02
            made.append(changed(transition, action=action, reward=float(10 * sign * side)))
            if drawn:
                made[-1] = changed(made[-1], behaviour=(float(before[k, 0]), 0.02))
        # Without a tomorrow, an action's advantage is its own reward.
        job = job_of(trainer, f"sign{sign}", gamma=0.0)
        target = PolicyStore.at(store.files.root / str(sign))
        learnt = trainer.on_policy.learn_on_policy(made, job, target)
        assert learnt.environment_steps == 256
        assert learnt.scores["batches"] == 2
        assert not np.array_equal(weights(learnt.module), weights(fresh))
        return float(np.mean(learnt.module.actions(observations) - before))

    assert moved(1) > 0 > moved(-1)


def test_the_same_transitions_and_seed_give_the_same_policy(trainer, store):
    def learn(name, seed):
        job = job_of(trainer, seed=seed)
        target = PolicyStore.at(store.files.root / name)
        return weights(trainer.on_policy.learn_on_policy(transitions_of(128), job, target).module)

    first = learn("a", 1)
    assert np.array_equal(first, learn("b", 1))
    assert not np.array_equal(first, learn("c", 2))


def test_what_does_not_fill_a_batch_waits(trainer, store):
    from shared.recorded_demand import TooLittleHistory

    recorded = transitions_of(300)
    with pytest.raises(TooLittleHistory, match="127 new live transitions are usable for training"):
        trainer.on_policy.learn_on_policy(recorded[:127], job_of(trainer), store)
    trainer.on_policy.learn_on_policy(recorded[:200], job_of(trainer), store)
    assert newest(trainer, store).used_up_to == recorded[127].at
    publish(store, "v1")
    learnt = trainer.on_policy.learn_on_policy(recorded, job_of(trainer, "v2"), store)
    assert learnt.scores["learnt_transitions"] == 256
    assert newest(trainer, store).used_up_to == recorded[255].at


def test_no_batch_begins_after_time_total_s(trainer, store):
    job = job_of(trainer, seconds=1e-6)
    learnt = trainer.on_policy.learn_on_policy(transitions_of(256), job, store)
    assert learnt.scores["batches"] == 1


# Crashes, and the figures in the log


def test_a_killed_job_is_gone_on_with_and_its_log_has_the_notebooks_figures(trainer, store):
    import pickle

    recorded = transitions_of(3 * 128)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.files)],
        input=pickle.dumps((recorded, job_of(trainer))),
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    log = ended.stderr.decode()
    assert ended.returncode == -signal.SIGKILL, log
    assert newest(trainer, store).batches == 2

    json_line, console_line = (line for line in log.splitlines() if "training_batch" in line)
    assert json.loads(json_line)["event"] == "training_batch"
    for line, told in zip((json_line, console_line), results(store), strict=True):
        for name, regex in METRIC_DEFINITIONS.items():
            found = re.search(regex, line)
            assert found is not None, (name, line)
            assert float(found[1]) == pytest.approx(told[name], rel=1e-4)

    learnt = trainer.on_policy.learn_on_policy(recorded, job_of(trainer, "v2"), store)
    assert learnt.environment_steps == 128, "the third batch only"
    assert [result["batch"] for result in results(store)] == [1, 2, 3]
    assert newest(trainer, store).transitions == 3 * 128


def test_an_episode_is_counted_whole_over_batches_and_jobs(trainer, store):
    recorded = transitions_of(3 * 128)
    trainer.on_policy.learn_on_policy(recorded[:200], job_of(trainer), store)
    learnt = trainer.on_policy.learn_on_policy(recorded, job_of(trainer, "v2"), store)
    told = results(store)
    assert [result["episode_len_mean"] for result in told] == [128, 256, EPISODE_STEPS]
    of_episode = sum(transition.reward for transition in recorded[:EPISODE_STEPS])
    for name in ("episode_reward_mean", "episode_reward_max", "episode_reward_min"):
        assert told[-1][name] == learnt.scores[name] == pytest.approx(of_episode)
    assert newest(trainer, store).episodes.running.steps == 3 * 128 - EPISODE_STEPS


def test_a_batch_whose_checkpoint_was_not_completed_is_done_again(
    trainer, any_store, tmp_path, monkeypatch
):
    store, once = any_store, PolicyStore.at(tmp_path / "once")
    recorded = transitions_of(256)
    whole = trainer.on_policy.learn_on_policy(recorded, job_of(trainer), once)
    save = trainer.on_policy._Learner.save

    def fails(learner, folder):
        save(learner, folder)
        if learner.state.batches == 2:
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.on_policy._Learner, "save", fails)
        with pytest.raises(OSError, match="no space"):
            trainer.on_policy.learn_on_policy(recorded, job_of(trainer), store)
    assert newest(trainer, store).batches == 1
    learnt = trainer.on_policy.learn_on_policy(recorded, job_of(trainer, "v2"), store)
    assert [result["batch"] for result in results(store)] == [1, 2, 2]
    assert store.files.complete(WORKING, "state.json") == ["batch-000002"]
    assert weights(learnt.module) == pytest.approx(weights(whole.module), abs=1e-2)


def test_what_a_job_left_unpublished_needs_no_new_transitions(trainer, store):
    recorded = transitions_of(128)
    left = trainer.on_policy.learn_on_policy(recorded, job_of(trainer), store)
    again = trainer.on_policy.learn_on_policy(recorded, job_of(trainer, "v2"), store)
    assert again.environment_steps == 0
    assert again.scores["batches"] == 1
    assert np.array_equal(weights(again.module), weights(left.module))


def test_it_goes_on_from_another_champion_if_there_is_one(trainer, any_store, tmp_path):
    """A rollback or a promotion: not from where its own last job has ended."""
    store = any_store
    recorded = transitions_of(256)
    elsewhere = PolicyStore.at(tmp_path / "elsewhere")
    other = trainer.on_policy.learn_on_policy(
        recorded[:128], job_of(trainer, seed=7), elsewhere, tmp_path / "other"
    )
    trainer.on_policy.learn_on_policy(recorded[:128], job_of(trainer), store)
    publish(store, "v1")
    publish(store, "other", (tmp_path / "other").rename)
    working = trainer.working_folder.WorkingFolder(store, "default")
    with trainer.on_policy.start_of(job_of(trainer, "v2"), store, working) as start:
        assert np.array_equal(weights(start.module), weights(other.module))
        assert start.checkpoint is None
    learnt = trainer.on_policy.learn_on_policy(recorded, job_of(trainer, "v2"), store)
    assert learnt.scores["batches"] == 2


def test_a_checkpoint_of_a_release_that_had_the_class_elsewhere_is_read(
    trainer, store, tmp_path, monkeypatch
):
    former = trainer.checkpoints.FORMER_MODULE
    checkpoint = tmp_path / CHECKPOINT
    with monkeypatch.context() as before:
        module = trainer.checkpoints.ResidualModule
        before.setitem(sys.modules, former, sys.modules[module.__module__])
        before.setattr(module, "__module__", former)
        learnt = trainer.on_policy.learn_on_policy(
            transitions_of(128), job_of(trainer), store, checkpoint
        )
    named = [path for path in checkpoint.rglob("*.pkl") if former.encode() in path.read_bytes()]
    assert named, "the checkpoint names the class by where it was"
    monkeypatch.delitem(sys.modules, former, raising=False)
    saved = trainer.checkpoints.load_policy_module(checkpoint)
    assert np.array_equal(weights(saved), weights(learnt.module))


@pytest.mark.parametrize("from_champion", [False, True])
def test_it_goes_on_with_the_same_weights_where_limits_and_action_factor_change(
    trainer, store, tmp_path, from_champion
):
    recorded = transitions_of(256)
    first = trainer.on_policy.learn_on_policy(
        recorded[:128], job_of(trainer), store, tmp_path / CHECKPOINT
    )
    if from_champion:
        publish(store, "other", (tmp_path / CHECKPOINT).rename)
    else:
        publish(store, "v1")
    now = FleetParameters(max_servers=300.0, action_factor=200.0)
    job = replace(job_of(trainer, "v2"), parameters=now)
    working = trainer.working_folder.WorkingFolder(store, "default")
    with trainer.on_policy.start_of(job, store, working) as start:
        assert np.array_equal(weights(start.module), weights(first.module))
        assert (start.checkpoint is None) == from_champion
        assert (start.module.shape.action_factor, start.module.shape.highest_action) == (200, 1.5)
        ten = np.full((1, 10), 60.0)
        servers = [200 * start.module.actions(ten), 100 * first.module.actions(ten)]
        assert servers[0] == pytest.approx(servers[1], rel=1e-5)
    learnt = trainer.on_policy.learn_on_policy(recorded, job, store)
    assert learnt.scores["batches"] == 2
    assert learnt.module.shape.highest_action == 1.5
    moved = weights(learnt.module) - weights(first.module)
    assert 0 < np.abs(moved).max() < 0.1, "it went on from there"


def test_actions_of_another_factor_are_learnt_from_as_what_they_were_in_servers(trainer):
    recorded = transitions_of(3)
    drawn = changed(recorded[1], action=0.5, behaviour=(0.4, 0.05), action_factor=100.0)
    older = changed(recorded[2], action=0.5, action_factor=None)
    kept = trainer.episodes.usable(
        [recorded[0], drawn, older], FleetParameters(action_factor=200.0)
    )
    assert (kept[1].action, kept[1].behaviour) == (0.25, (0.2, 0.025))
    assert kept[2].action == 0.5, "an older version did not say"
    assert trainer.episodes.usable([drawn], PARAMETERS) == [drawn]


# Jobs


def test_jobs_publish_what_the_services_load(trainer, trainer_context, redis_url, store):
    jobs = trainer.jobs
    fleets = Fleets({"default": FleetSettings(learning="on_policy", time_total_s=30)})
    context = replace(trainer_context, store=store, fleets=fleets, save_model=True)
    payload = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1).model_dump_json()

    async def commit(made):
        bus = Bus.connect(redis_url)
        for each in made:
            await bus.commit_step(each.record, each.recorded, each.transition, each.decision)
        outcome = (await bus.latest(TRAININGS)).get("default")
        await bus.close()
        return outcome

    asyncio.run(commit(commits(130)))
    first = jobs.train(context, payload)
    policy = load_policy(store, "default", first, PARAMETERS)
    assert policy.manifest.trained_on_steps == 128
    assert policy.manifest.scores["batches"] == 1
    assert 0 < policy.exploration < 0.2
    assert np.isfinite(first_action(policy, (40.0,) * 10))
    saved = trainer.checkpoints.load_policy_module(checkpoint_of(store, first))
    observation = (40.0,) * 10
    assert first_action(saved, observation) == pytest.approx(first_action(policy, observation))

    assert jobs.train(context, payload) is None
    outcome = asyncio.run(commit(commits(130, first=131)))
    assert "2 new live transitions are usable for training" in outcome.error

    second = jobs.train(replace(context, save_model=False), payload)
    told = asyncio.run(commit([]))
    assert (told.outcome, told.version, told.costs) == ("published", second, {})
    assert "has no gate" in told.reason
    assert store.champion("default").version == second
    assert store.manifest("default", second).trained_on_steps == 256
    assert store.manifest("default", second).scores["batches"] == 2
    assert not checkpoint_of(store, second).exists(), "it was not asked for"


def checkpoint_of(store, version):
    return store.files.root.joinpath("default", version) / CHECKPOINT
