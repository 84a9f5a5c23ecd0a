"""Training jobs on a real Redis: published, failed, killed half-way, stopped half-way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import redis

from shared.bus import CHAMPIONS, TRAININGS, Bus, TrainingQueue
from shared.core.curves import sine1h
from shared.messages import TrainingJob, utc_now
from shared.policies.runtime import load_policy
from shared.policies.store import CHECKPOINT, LITERT_MODEL, SAVED_MODEL, PolicyStore
from shared.settings import FleetSettings
from tests.conftest import a_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
]

START_SECONDS = 90.0
"""Importing ray, torch and tensorflow and starting Ray, on a busy machine."""
JOB_SECONDS = 60.0
STOP_SECONDS = 10.0
"""SIGTERM to exit; 5 s on an idle machine."""
STEPS = 200


async def record(url, demands, fleet="default"):
    """Commit steps with these demands, as the environment worker does."""
    bus = Bus.connect(url)
    for number, demand in enumerate(demands, start=1):
        made = a_step(number, fleet, demand, utc_now(), policy_version="rule:trend")
        await bus.commit_step(*made._replace(recorded=made.recorded._replace(at=65.0 * number)))
    await bus.close()


def enqueue(url, fleet="default"):
    queue = TrainingQueue(url)
    job = TrainingJob(fleet=fleet, queued_at=utc_now(), up_to_step=STEPS)
    queued = queue.enqueue(job, timeout_s=120)
    queue.connection.close()
    return queued


def await_no_job(url, seconds=10.0):
    """Return once RQ has done with the fleet's job, which comes after its last log line."""
    queue = TrainingQueue(url)
    deadline = time.monotonic() + seconds
    while (status := queue.status("default")) is not None:
        assert time.monotonic() < deadline, f"RQ keeps the job as {status}"
        time.sleep(0.1)
    queue.connection.close()


async def latest(url, feed):
    bus = Bus.connect(url)
    try:
        return (await bus.latest(feed)).get("default")
    finally:
        await bus.close()


@dataclass
class Trainer:
    """A trainer as a process of its own; its log is a file of JSON lines."""

    process: subprocess.Popen
    log: Path

    @classmethod
    def start(cls, url, folder, **settings):
        log = folder / f"trainer-{time.monotonic_ns()}.log"
        environment = {
            **os.environ,
            "AUTOPILOT_REDIS_URL": url,
            "AUTOPILOT_POLICY_STORE": str(folder / "policies"),
            "AUTOPILOT_LOG_FORMAT": "json",
            "AUTOPILOT_TIME_TOTAL_S": "6",
            **settings,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return cls(process, log)

    def events(self, name):
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def wait_for(self, name, seconds, times=1):
        deadline = time.monotonic() + seconds
        while len(self.events(name)) < times:
            assert self.process.poll() is None, f"the trainer has ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"no {name}:\n{self.log.read_text()}"
            time.sleep(0.1)
        return self.events(name)[0]

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self):
        """SIGTERM; the seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_SECONDS)
        return time.monotonic() - began

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def trainers():
    """Starts trainers and leaves none behind."""
    started = []

    def start(*arguments, **settings):
        started.append(Trainer.start(*arguments, **settings))
        return started[-1]

    yield start
    for trainer in started:
        if trainer.process.poll() is None:
            trainer.kill()


def left_running(processes, seconds=10.0):
    """Names of those that have not ended."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def partials(store):
    return [path.name for path in (store.files.root / "default").glob(".*.partial")]


def test_killed_half_way_then_retried_then_stopped(own_redis, tmp_path, trainers, publish_policy):
    """One story, since each trainer takes long to start.

    A worker starts while Redis is away and is killed in mid-job; the next one retries the job and
    publishes; SIGTERM in mid-job puts the job back.
    """
    url = own_redis.url
    store = PolicyStore.at(tmp_path / "policies")
    before = publish_policy(store, "20260101T000000Z-000000")

    own_redis.stop()
    first = trainers(url, tmp_path, AUTOPILOT_TIME_TOTAL_S="600")
    first.wait_for("redis_is_away", START_SECONDS)
    own_redis.start()
    first.wait_for("redis_is_back", JOB_SECONDS)
    asyncio.run(record(url, [sine1h(k, 90.0) for k in range(STEPS)]))
    assert enqueue(url)

    first.wait_for("training_progress", JOB_SECONDS)
    # Ray's agents take a minute to see that their raylet is gone; the rest ends at once.
    ray_of_first = [child for child in first.children() if not child.name().startswith("ray::")]
    assert {"raylet", "gcs_server"} <= {child.name() for child in ray_of_first}
    first.kill()
    assert "Traceback" not in first.log.read_text()
    assert store.champion("default") == before
    assert store.versions("default") == [before.version]
    assert len(partials(store)) == 1
    assert not enqueue(url), "the fleet's job is still there"

    second = trainers(url, tmp_path)
    second.wait_for("trainer_ready", START_SECONDS)
    abandoned = second.wait_for("training_failed", JOB_SECONDS)
    assert "the worker of the training job died" in abandoned["error"]
    published = second.wait_for("policy_published", JOB_SECONDS)
    champion = store.champion("default")
    assert champion.version == published["version"]
    assert store.versions("default") == [before.version, champion.version]
    assert partials(store) == []
    assert asyncio.run(latest(url, CHAMPIONS)) == champion
    outcome = asyncio.run(latest(url, TRAININGS))
    assert (outcome.outcome, outcome.version) == ("published", champion.version)
    assert outcome.environment_steps > 0
    policy = load_policy(store, "default", champion.version, FleetSettings().parameters)
    assert policy.manifest.trained_on_steps == STEPS * 4 // 5, "the gate keeps the newest fifth"
    assert outcome.costs["candidate"] < outcome.costs["rule:buffer"]
    assert champion.runner_up == before.version
    assert policy.manifest.scores["held_out_cost"] > 0
    assert left_running(ray_of_first) == []

    await_no_job(url)
    assert enqueue(url)
    second.wait_for("training_started", JOB_SECONDS, times=2)
    ray_of_second = second.children()
    assert second.stop() < STOP_SECONDS
    assert second.process.returncode == 0
    assert left_running(ray_of_second) == []
    assert len(second.events("training_stopped")) == 1
    assert len(second.events("training_failed")) == 1, "of the abandoned job only"
    assert "Traceback" not in second.log.read_text()
    assert store.champion("default") == champion
    assert partials(store) == []
    with redis.Redis.from_url(url) as client:
        assert client.hget("rq:job:train-default", "status") == b"scheduled"
        assert client.hget("rq:job:train-default", "retries_left") == b"3"


def test_a_bad_setting_is_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "services.trainer"],
        env={**os.environ, "AUTOPILOT_TIME_TOTAL_S": "soon"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "AUTOPILOT_TIME_TOTAL_S" in ended.stderr


def test_s3_goes_while_a_job_learns_and_comes_back(redis_url, bucket, moto, tmp_path, trainers):
    """The job fails visibly and is tried again; nothing of the first try is ever seen."""
    location = f"s3://{bucket}/policies"
    store = PolicyStore.at(location)
    trainer = trainers(redis_url, tmp_path, AUTOPILOT_POLICY_STORE=location)
    asyncio.run(record(redis_url, [sine1h(k, 90.0) for k in range(STEPS)]))
    trainer.wait_for("trainer_ready", START_SECONDS)
    assert enqueue(redis_url)
    trainer.wait_for("training_progress", JOB_SECONDS)
    moto.stop()
    failed = trainer.wait_for("training_failed", JOB_SECONDS)
    assert f"{location} does not answer" in failed["error"]
    deadline = time.monotonic() + START_SECONDS
    while (outcome := asyncio.run(latest(redis_url, TRAININGS))) is None:
        assert time.monotonic() < deadline, "it is told after it is logged"
        time.sleep(0.1)
    assert (outcome.outcome, outcome.error) == ("failed", failed["error"])
    moto.start()
    assert store.versions("default") == []
    published = trainer.wait_for("policy_published", JOB_SECONDS)
    champion = store.champion("default")
    assert champion.version == published["version"]
    assert store.versions("default") == [champion.version]
    policy = load_policy(store, "default", champion.version, FleetSettings().parameters)
    assert policy.manifest.trained_on_steps == STEPS * 4 // 5
    with store.fetched("default", champion.version) as folder:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {CHECKPOINT, LITERT_MODEL, f"{SAVED_MODEL}/saved_model.pb"} <= names
    await_no_job(redis_url)
    trainer.stop()
    assert "Traceback" not in trainer.log.read_text()


def test_an_idle_trainer_takes_the_job_of_one_that_is_killed(redis_url, tmp_path, trainers):
    two = [trainers(redis_url, tmp_path, AUTOPILOT_TIME_TOTAL_S="600") for _ in range(2)]
    for trainer in two:
        trainer.wait_for("trainer_ready", 2 * START_SECONDS)
    asyncio.run(record(redis_url, [sine1h(k, 90.0) for k in range(STEPS)]))
    assert enqueue(redis_url)
    deadline = time.monotonic() + JOB_SECONDS
    while not (busy := [trainer for trainer in two if trainer.events("training_progress")]):
        assert time.monotonic() < deadline, "nobody works"
        time.sleep(0.1)
    (killed,) = busy
    (idle,) = [trainer for trainer in two if trainer is not killed]
    assert not enqueue(redis_url), "a fleet has one job at a time"
    assert idle.events("training_started") == []

    killed.kill()
    assert not enqueue(redis_url), "its job is still there"
    idle.wait_for("training_progress", JOB_SECONDS)
    (abandoned,) = idle.events("training_failed")
    assert "the worker of the training job died" in abandoned["error"]
    assert len(idle.events("training_started")) == 1
    assert not enqueue(redis_url)
    assert PolicyStore.at(tmp_path / "policies").versions("default") == []
    assert asyncio.run(latest(redis_url, CHAMPIONS)) is None
