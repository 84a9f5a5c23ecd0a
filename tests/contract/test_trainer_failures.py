"""Jobs in this process that can't publish: the champion stays, the failure is told."""

import asyncio
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import structlog

from services.trainer.context import Stop, TrainingStopped
from shared.bus import TRAINING_RETRIES, TRAININGS, Bus, TrainingQueue
from shared.errors import PolicyDisagrees
from shared.messages import RecordedStep, TrainingJob, utc_now
from shared.policies.runtime import load_policy
from shared.policies.store import CHECKPOINT, LITERT_MODEL, SAVED_MODEL, PolicyStore
from shared.settings import FleetSettings


@pytest.fixture
def jobs():
    """The jobs module; learning itself is not in question here."""
    from services.trainer import jobs

    return jobs


@pytest.fixture
def worker(redis_url, trainer_context):
    from services.trainer.worker import TrainingWorker

    queue = TrainingQueue(redis_url)
    yield TrainingWorker(queue, trainer_context)
    queue.connection.close()


def payload(fleet="default"):
    return TrainingJob(fleet=fleet, queued_at=utc_now(), up_to_step=1).model_dump_json()


def outcome(redis_url, fleet="default"):
    async def read():
        bus = Bus.connect(redis_url)
        try:
            return (await bus.latest(TRAININGS))[fleet]
        finally:
            await bus.close()

    return asyncio.run(read())


def with_history(monkeypatch):
    steps = [RecordedStep(k, 65.0 * k, 10.0 + k % 7, True, 0) for k in range(1, 101)]

    async def recorded_steps(*_):
        return steps

    monkeypatch.setattr(Bus, "recorded_steps", recorded_steps)


def test_too_little_history_is_told_and_not_retried(
    jobs, trainer_context, redis_url, tmp_path, publish_policy
):
    before = publish_policy(PolicyStore.at(tmp_path), "v1")
    with structlog.testing.capture_logs() as logs:
        assert jobs.train(trainer_context, payload()) is None
    told = outcome(redis_url)
    assert told.outcome == "failed"
    assert told.version is None
    assert "has 0 steps and learning needs 11" in told.error
    (event,) = (log for log in logs if log["event"] == "training_failed")
    assert event["exc_info"] is None, "no traceback for what is no fault of the code"
    assert PolicyStore.at(tmp_path).champion("default") == before


def test_an_unknown_fleet_is_told_and_not_retried(jobs, trainer_context, redis_url):
    assert jobs.train(trainer_context, payload("nowhere")) is None
    assert "there is no fleet 'nowhere'" in outcome(redis_url, "nowhere").error


def test_forms_that_disagree_are_not_published(
    jobs, trainer_context, redis_url, tmp_path, publish_policy, monkeypatch, ray_running
):
    """The export writes a model that answers otherwise: real learning, real files."""
    from shared.learning.export import writer as export

    before = publish_policy(PolicyStore.at(tmp_path), "v1")
    with_history(monkeypatch)

    class Biased(export.ServedPolicy):
        def __init__(self, module):
            super().__init__(module)
            self._ensemble._biases[-1].assign_add([0.5])

    monkeypatch.setattr(export, "ServedPolicy", Biased)
    with pytest.raises(PolicyDisagrees, match="not published"):
        jobs.train(trainer_context, payload())
    store = PolicyStore.at(tmp_path)
    assert store.champion("default") == before
    assert store.versions("default") == ["v1"]
    assert list((tmp_path / "default").glob(".*.partial")) == []
    assert outcome(redis_url).outcome == "failed"
    assert "differ by" in outcome(redis_url).error


def test_a_job_that_raises_is_told_and_retried(
    worker, redis_url, tmp_path, publish_policy, monkeypatch
):
    before = publish_policy(PolicyStore.at(tmp_path), "v1")
    with_history(monkeypatch)

    def broken(*_, **__):
        raise RuntimeError("no space left")

    monkeypatch.setattr("services.trainer.fleet_training.train", broken)
    queue = TrainingQueue(redis_url)
    job = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=100)
    assert queue.enqueue(job, timeout_s=60)
    worker.work(burst=True, logging_level="WARNING")
    told = outcome(redis_url)
    assert (told.outcome, told.error) == ("failed", "RuntimeError: no space left")
    assert PolicyStore.at(tmp_path).champion("default") == before
    assert queue.status("default") == "scheduled"
    assert not queue.enqueue(job, timeout_s=60), "the fleet's job is still there"
    queue.connection.close()


def test_s3_goes_while_a_job_learns_and_comes_back(
    trainer_context, redis_url, bucket, moto, monkeypatch, ray_running
):
    """The job fails visibly and is tried again; nothing of the first try is ever seen."""
    from services.trainer import fleet_training
    from services.trainer.worker import TrainingWorker

    location = f"s3://{bucket}/policies"
    store = PolicyStore.at(location)
    context = replace(trainer_context, store=store, save_model=True)
    with_history(monkeypatch)
    learn = fleet_training.train

    def learns_while_s3_goes(*arguments):
        moto.stop()
        return learn(*arguments)

    queue = TrainingQueue(redis_url)
    worker = TrainingWorker(queue, context)
    job = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=100)
    assert queue.enqueue(job, timeout_s=60)
    with monkeypatch.context() as patch:
        patch.setattr(fleet_training, "train", learns_while_s3_goes)
        worker.work(burst=True, logging_level="WARNING")
    assert outcome(redis_url).outcome == "failed"
    assert f"{location} does not answer" in outcome(redis_url).error
    moto.start()
    assert store.versions("default") == []

    queue.connection.zadd("rq:scheduled:training", {"train-default": 1})
    worker.run_maintenance_tasks()
    worker.work(burst=True, logging_level="WARNING")
    champion = store.champion("default")
    assert outcome(redis_url).version == champion.version
    assert store.versions("default") == [champion.version]
    assert load_policy(store, "default", champion.version, FleetSettings().parameters)
    with store.fetched("default", champion.version) as folder:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {CHECKPOINT, LITERT_MODEL, f"{SAVED_MODEL}/saved_model.pb"} <= names
    queue.connection.close()


def test_due_retries_are_put_back_once(worker, redis_url, monkeypatch):
    """RQ's scheduler is not running; the worker's upkeep does its work."""
    with_history(monkeypatch)
    tries = []

    def broken(*_, **__):
        tries.append(1)
        raise RuntimeError("no space left")

    monkeypatch.setattr("services.trainer.fleet_training.train", broken)
    queue = TrainingQueue(redis_url)
    job = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=100)
    queue.enqueue(job, timeout_s=60)
    worker.work(burst=True, logging_level="WARNING")
    assert len(tries) == 1
    queue.connection.zadd("rq:scheduled:training", {"train-default": 1})
    queue.connection.zadd("rq:scheduled:training", {"train-deleted": 1})
    worker.run_maintenance_tasks()
    worker.run_maintenance_tasks()
    assert queue.queue.job_ids == ["train-default"]
    assert queue.connection.zcard("rq:scheduled:training") == 0
    queue.connection.close()


def test_an_abandoned_job_is_told_retried_and_done_with(
    jobs, trainer_context, worker, redis_url, monkeypatch
):
    """What a worker leaves that is killed in mid-job; here it just never goes on."""
    from services.trainer import worker as worker_module

    monkeypatch.setattr(jobs, "_train", lambda *_: "v1")
    queue = TrainingQueue(redis_url)
    queue.enqueue(TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1), timeout_s=60)
    dead = worker_module.TrainingWorker(queue, trainer_context)
    dead.register_birth()
    job, _ = dead.dequeue_job_and_maintain_ttl(None)
    dead.prepare_execution(job)
    dead.prepare_job_execution(job, remove_from_intermediate_queue=True)
    assert queue.status("default") == "started"
    ((execution, expires),) = queue.connection.zrange("rq:wip:training", 0, -1, withscores=True)
    assert expires <= time.time() + worker_module.ABANDONED_SECONDS
    queue.connection.zadd("rq:wip:training", {execution: 1})  # so long ago

    worker.run_maintenance_tasks()
    assert "the worker of the training job died" in outcome(redis_url).error
    assert queue.status("default") == "scheduled"
    queue.connection.zadd("rq:scheduled:training", {"train-default": 1})
    worker.run_maintenance_tasks()
    worker.work(burst=True, logging_level="WARNING")
    assert queue.status("default") is None, "done with, so that the next one can be queued"
    queue.connection.close()


@pytest.mark.parametrize("meanwhile", ["another has it", "it waits for another", "it is done with"])
def test_a_worker_that_wakes_up_leaves_its_job_to_another(
    worker, redis_url, tmp_path, monkeypatch, publish_policy, meanwhile
):
    """It was paused while it learnt; the job was taken from it, as RQ records that."""
    from shared.learning.models.network import module_of
    from shared.learning.training import TrainingResult

    with_history(monkeypatch)
    before = publish_policy(PolicyStore.at(tmp_path), "v1")
    queue = TrainingQueue(redis_url)
    key = "rq:job:train-default"

    def paused(*_, **__):
        if meanwhile == "it is done with":
            queue.connection.delete(key)
        elif meanwhile == "another has it":
            queue.connection.hset(key, "worker_name", "another")
        else:
            queue.connection.hset(key, "status", "scheduled")
        module = module_of(FleetSettings().parameters, seed=0)
        return TrainingResult(module, 0, {}, {}, module)

    monkeypatch.setattr("services.trainer.fleet_training.train", paused)
    queue.enqueue(TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1), timeout_s=60)
    with structlog.testing.capture_logs() as logs:
        worker.work(burst=True, logging_level="WARNING")
    assert [log["event"] for log in logs if log["log_level"] != "info"] == ["training_lost"]
    store = PolicyStore.at(tmp_path)
    assert store.champion("default") == before
    assert store.versions("default") == ["v1"]
    expected = {"another has it": "started", "it waits for another": "scheduled"}
    assert queue.status("default") == expected.get(meanwhile)
    queue.connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_worker(trainer_context, redis_url, monkeypatch, number):
    from services.trainer import worker as worker_module

    # Without the signal it would wait for a job for longer than a test may take.
    monkeypatch.setattr(worker_module, "WORKER_TTL_SECONDS", 1_000)
    queue = TrainingQueue(redis_url)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    timer.start()
    try:
        worker_module.TrainingWorker(queue, trainer_context).work(logging_level="WARNING")
    finally:
        timer.join()
        for each, handler in before.items():
            signal.signal(each, handler)
    assert trainer_context.stop.requested
    queue.connection.close()


def test_a_stop_in_mid_job_puts_it_back_with_all_its_retries(
    trainer_context, redis_url, monkeypatch
):
    from services.trainer.worker import TrainingWorker

    with_history(monkeypatch)

    def endless(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

    monkeypatch.setattr("services.trainer.fleet_training.train", endless)
    queue = TrainingQueue(redis_url)
    queue.enqueue(TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1), timeout_s=60)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        TrainingWorker(queue, trainer_context).work(logging_level="WARNING")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert queue.status("default") == "scheduled"
    assert queue.queue.fetch_job("train-default").retries_left == TRAINING_RETRIES
    assert list(trainer_context.store.files.root.glob("default/.*.partial")) == []
    queue.connection.close()


@pytest.mark.parametrize("step", ["export", "check_agreement", "publish"])
def test_a_stop_reaches_writing_and_spares_publishing(
    jobs, trainer_context, redis_url, tmp_path, monkeypatch, ray_running, step
):
    """Real learning and files; SIGTERM as the step begins."""
    from services.trainer.worker import TrainingWorker

    with_history(monkeypatch)
    holder = PolicyStore if step == "publish" else jobs
    original = getattr(holder, step)

    def stopped(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return original(*arguments, **named)

    monkeypatch.setattr(holder, step, stopped)
    queue = TrainingQueue(redis_url)
    queue.enqueue(TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1), timeout_s=60)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        TrainingWorker(queue, trainer_context).work(logging_level="WARNING")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    store = trainer_context.store
    published = step == "publish"
    assert len(store.versions("default")) == published
    assert (store.champion("default") is not None) == published
    assert queue.status("default") == (None if published else "scheduled")
    assert list(tmp_path.glob("default/.*.partial")) == []
    queue.connection.close()


def test_a_stop_is_obeyed_only_where_it_may_be():
    stop = Stop()
    stop.request()
    stop.check()
    with pytest.raises(TrainingStopped), stop.interrupts():
        raise AssertionError("learning began after a stop")

    late = Stop()
    with late.interrupts():
        late.request()
        with pytest.raises(TrainingStopped):
            late.check()
    late.check()
