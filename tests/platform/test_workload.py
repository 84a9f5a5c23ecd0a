"""What our own workers are scaled by, on a real Redis and real RQ jobs."""

import os
import subprocess
import sys

import pytest
import redis
import rq
from prometheus_client import CollectorRegistry

from services.metrics.workload import Workload
from shared.bus import Bus
from shared.messages import TrainingJob, utc_now
from tests.eventually import eventually_async
from tests.platform.sidecar import FLEETS, sidecar, until

JOBS = "autopilot_training_jobs{}"


@pytest.fixture
def start_worker(redis_url):
    """Starts RQ's own worker of the training queue as a process, in place of a trainer."""
    started = []

    def start():
        options = ["--url", redis_url, "--serializer", "rq.serializers.JSONSerializer"]
        command = [sys.executable, "-m", "rq.cli", "worker", "-w", "rq.SimpleWorker", *options]
        started.append(subprocess.Popen([*command, "training"], stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


@pytest.fixture
def gate(tmp_path):
    """A pipe that a job reads a word from: `go` is a good end of it, all else a bad one."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def enqueue(queue, gate):
    """A job that runs until it is told how to end, retried once after a minute."""
    script = f"read word < {gate} && test $word = go"
    retry = rq.Retry(max=1, interval=60)
    queue.queue.enqueue("subprocess.check_call", ["sh", "-c", script], retry=retry, result_ttl=0)


async def test_a_job_is_counted_from_the_queue_to_its_end(
    redis_url, queue, client_of, start_worker, gate
):
    async with client_of(sidecar(redis_url)) as client:
        samples = await until(client, {JOBS: 0.0})
        assert samples["autopilot_fleets{}"] == len(FLEETS.names)
        for fleet in ("default", "eu", "eu"):
            queue.enqueue(TrainingJob(fleet=fleet, queued_at=utc_now(), up_to_step=1), 60)
        await until(client, {JOBS: 2.0})
        queue.queue.empty()
        enqueue(queue, gate)
        await until(client, {JOBS: 1.0})
        start_worker()
        gate_opened = gate.open("w")  # once the job runs, and reads
        with redis.Redis.from_url(redis_url) as raw:
            assert raw.llen("rq:queue:training") == 0, "the queue's list has lost the job"
        bus = Bus.connect(redis_url)
        assert await bus.training_jobs() == 1
        await bus.close()
        with gate_opened:
            gate_opened.write("go\n")
        await until(client, {JOBS: 0.0})


async def test_a_job_that_waits_for_its_retry_is_counted(
    redis_url, queue, client_of, start_worker, gate
):
    enqueue(queue, gate)
    start_worker()
    with gate.open("w") as opened:
        opened.write("fail\n")
    scheduled = queue.queue.scheduled_job_registry
    await eventually_async(
        lambda: scheduled.get_job_count(cleanup=False),
        "the job waits for its retry",
        holds=lambda jobs: jobs == 1,
    )
    async with client_of(sidecar(redis_url)) as client:
        await until(client, {JOBS: 1.0})


async def test_the_job_of_a_killed_worker_is_counted(
    redis_url, queue, client_of, start_worker, gate
):
    enqueue(queue, gate)
    worker = start_worker()
    with gate.open("w"):
        worker.kill()
        worker.wait()
    async with client_of(sidecar(redis_url)) as client:
        await until(client, {JOBS: 1.0})


async def test_nothing_is_said_while_redis_is_away(own_redis, client_of):
    async with client_of(sidecar(own_redis.url)) as client:
        await until(client, {JOBS: 0.0})
        own_redis.stop()
        samples = await until(client, {JOBS: None})
        assert samples["autopilot_fleets{}"] == len(FLEETS.names)
        own_redis.start()
        await until(client, {JOBS: 0.0})


def test_nothing_is_said_before_redis_has_been_asked():
    told = [family.name for family in Workload(CollectorRegistry(), 2).collect()]
    assert told == ["autopilot_fleets"]
