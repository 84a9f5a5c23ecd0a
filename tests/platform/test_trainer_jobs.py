"""Training jobs of trainers as processes: killed half-way, taken over, stopped half-way."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shared.bus import CHAMPIONS, TRAININGS, Bus, TrainingQueue
from shared.core.curves import sine1h
from shared.messages import TrainingJob, utc_now
from shared.policies.runtime import load_policy
from shared.policies.store import PolicyStore
from shared.settings import FleetSettings
from tests.conftest import a_step
from tests.eventually import eventually
from tests.processes import Process, run

START_SECONDS = 120.0
"""Patience with importing ray, torch and tensorflow and starting Ray, on a busy machine."""
STEPS = 200
JOB = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=STEPS)


async def record(url, demands, fleet="default"):
    """Commit steps with these demands, as the environment worker does."""
    bus = Bus.connect(url)
    for number, demand in enumerate(demands, start=1):
        made = a_step(number, fleet, demand, utc_now(), policy_version="rule:trend")
        await bus.commit_step(*made._replace(recorded=made.recorded._replace(at=65.0 * number)))
    await bus.close()


async def latest(url, feed):
    bus = Bus.connect(url)
    try:
        return (await bus.latest(feed)).get("default")
    finally:
        await bus.close()


class Trainer:
    """A trainer as a process of its own; its log is a file of JSON lines."""

    def __init__(self, url, log, **settings):
        environment = {
            **os.environ,
            "AUTOPILOT_REDIS_URL": url,
            "AUTOPILOT_POLICY_STORE": str(log.parent / "policies"),
            "AUTOPILOT_LOG_FORMAT": "json",
            **settings,
        }
        self.log = log
        self.process = Process("services.trainer", env=environment, log=log)

    def events(self, name):
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def wait_for(self, name, times=1):
        def told():
            assert self.process.poll() is None, f"the trainer has ended:\n{self.log.read_text()}"
            return self.events(name)

        return eventually(told, name, START_SECONDS, holds=lambda told: len(told) >= times)[0]

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def trainers(tmp_path):
    """Starts trainers and leaves none behind."""
    started = []

    def start(url, **settings):
        log: Path = tmp_path / f"trainer-{len(started)}.log"
        started.append(Trainer(url, log, **settings))
        return started[-1]

    yield start
    for trainer in started:
        trainer.process.kill()


def left_running(processes):
    """Names of those that have not ended."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def partials(store):
    return [path.name for path in (store.files.root / "default").glob(".*.partial")]


@pytest.fixture
def store(tmp_path):
    return PolicyStore.at(tmp_path / "policies")


@pytest.fixture
def before(store, publish_policy):
    """The champion that the job finds."""
    return publish_policy(store, "20260101T000000Z-000000")


@pytest.fixture
def queue(own_redis):
    queue = TrainingQueue(own_redis.url)
    yield queue
    queue.connection.close()


@pytest.fixture
def in_mid_job(own_redis, queue, trainers):
    """A trainer that started while Redis was away, and learns for longer than a test may take."""
    own_redis.stop()
    trainer = trainers(own_redis.url, AUTOPILOT_TIME_TOTAL_S="600")
    trainer.wait_for("redis_is_away")
    own_redis.start()
    trainer.wait_for("redis_is_back")
    asyncio.run(record(own_redis.url, [sine1h(k, 90.0) for k in range(STEPS)]))
    assert queue.enqueue(JOB, timeout_s=600)
    trainer.wait_for("training_progress")
    return trainer


def killed(trainer, store, before, queue):
    """Kill it in mid-job; the processes of its Ray."""
    assert not queue.enqueue(JOB, timeout_s=600), "a fleet has one job at a time"
    # Ray's agents take a minute to see that their raylet is gone; the rest ends at once.
    ray = [child for child in trainer.children() if not child.name().startswith("ray::")]
    assert {"raylet", "gcs_server"} <= {child.name() for child in ray}
    trainer.process.kill()
    trainer.process.wait()
    assert "Traceback" not in trainer.log.read_text()
    assert store.champion("default") == before
    assert store.versions("default") == [before.version]
    assert len(partials(store)) == 1
    assert not queue.enqueue(JOB, timeout_s=600), "its job is still there"
    # As if its last sign of life were so long ago.
    (execution,) = queue.connection.zrange("rq:wip:training", 0, -1)
    queue.connection.zadd("rq:wip:training", {execution: 1})
    return ray


def is_published(store, before, url):
    champion = store.champion("default")
    assert store.versions("default") == [before.version, champion.version]
    assert partials(store) == []
    assert asyncio.run(latest(url, CHAMPIONS)) == champion
    outcome = asyncio.run(latest(url, TRAININGS))
    assert (outcome.outcome, outcome.version) == ("published", champion.version)
    assert outcome.environment_steps > 0
    policy = load_policy(store, "default", champion.version, FleetSettings().parameters)
    assert policy.manifest.trained_on_steps == STEPS * 4 // 5, "the gate keeps the newest fifth"
    assert {"candidate", "rule:buffer"} <= outcome.costs.keys()
    assert champion.runner_up == before.version
    assert policy.manifest.scores["held_out_cost"] > 0


@pytest.mark.timeout(300)
def test_the_job_of_a_killed_trainer_is_done_by_another(
    own_redis, queue, store, before, ray_running, in_mid_job, trainer_context
):
    """The other one is a worker in this process; retries are due when they are put back."""
    from services.trainer.worker import TrainingWorker

    context = replace(trainer_context, redis_url=own_redis.url, store=store, save_model=True)
    worker = TrainingWorker(queue, context)
    ray = killed(in_mid_job, store, before, queue)
    worker.run_maintenance_tasks()
    outcome = asyncio.run(latest(own_redis.url, TRAININGS))
    assert "the worker of the training job died" in outcome.error
    queue.connection.zadd("rq:scheduled:training", {"train-default": 1})
    worker.run_maintenance_tasks()
    worker.work(burst=True, logging_level="WARNING")
    is_published(store, before, own_redis.url)
    assert queue.status("default") is None
    assert left_running(ray) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_half_way_taken_over_by_another_and_stopped(
    own_redis, queue, store, before, in_mid_job, trainers
):
    """An idle trainer retries the job and publishes; SIGTERM in mid-job puts the job back."""
    url = own_redis.url
    second = trainers(url, AUTOPILOT_TIME_TOTAL_S="2")
    second.wait_for("trainer_ready")
    assert second.events("training_started") == []
    ray_of_first = killed(in_mid_job, store, before, queue)

    published = second.wait_for("policy_published")
    (abandoned,) = second.events("training_failed")
    assert "the worker of the training job died" in abandoned["error"]
    champion = store.champion("default")
    assert champion.version == published["version"]
    is_published(store, before, url)
    assert left_running(ray_of_first) == []

    # RQ has done with it after the last line of the log.
    eventually(lambda: queue.status("default") is None, "RQ has done with the job")
    assert queue.enqueue(JOB, timeout_s=600)
    second.wait_for("training_started", times=2)
    ray_of_second = second.children()
    second.process.terminate()
    assert second.process.wait(START_SECONDS) == 0
    assert left_running(ray_of_second) == []
    assert len(second.events("training_stopped")) == 1
    assert len(second.events("training_failed")) == 1, "of the abandoned job only"
    assert "Traceback" not in second.log.read_text()
    assert store.champion("default") == champion
    assert partials(store) == []
    assert queue.connection.hget("rq:job:train-default", "status") == b"scheduled"
    assert queue.connection.hget("rq:job:train-default", "retries_left") == b"3"


def test_a_bad_setting_is_one_line():
    ended = run("services.trainer", env={**os.environ, "AUTOPILOT_TIME_TOTAL_S": "soon"})
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "AUTOPILOT_TIME_TOTAL_S" in ended.stderr
