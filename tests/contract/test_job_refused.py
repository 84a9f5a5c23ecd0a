"""Whoever reaches Redis can queue a job: only our own is run, and all others are told of."""

import json
import zlib

import pytest
import rq
import structlog
from rq.exceptions import NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Callback, Dependency
from rq.repeat import Repeat
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from shared.bus import QueuedTraining
from shared.messages import TrainingJob, utc_now

KEY = "rq:job:train-default"
TRAIN = "services.trainer.jobs.train"


@pytest.fixture
def attacker(redis_url, queue):
    """RQ's own queue, which takes any job."""
    return rq.Queue("training", connection=queue.connection, serializer=JSONSerializer)


def a_job(fleet="default"):
    return TrainingJob(fleet=fleet, queued_at=utc_now(), up_to_step=1)


def payload(fleet="default"):
    return a_job(fleet).model_dump_json()


def packed(*call):
    return zlib.compress(json.dumps(call).encode())


def name(function, *arguments, **options):
    """A job that names a function."""
    return lambda attacker: attacker.enqueue(function, *arguments, **options)


def change(**fields):
    """A training job of which fields are others."""

    def made(attacker):
        attacker.enqueue(TRAIN, payload(), job_id="train-default")
        attacker.connection.hset(KEY, mapping=fields)

    return made


def push(job_id):
    """Something in the queue's list that is no job's id."""
    return lambda attacker: attacker.push_job_id(job_id)


def attacks(made):
    """What somebody may put into Redis, and what the log has to name of it; `made` is a file."""
    touch = f"touch {made}"
    callback = Callback("os.system")
    own = {"job_id": "train-default"}
    hook = Webhook("http://127.0.0.1:9/", "failed")
    return {
        "another function": (name("os.system", touch), "the function os.system"),
        "a function under our id": (name("os.system", touch, **own), "the function os.system"),
        "code": (name("builtins.exec", f"open({str(made)!r}, 'w')", **own), "builtins.exec"),
        "a success callback": (name(TRAIN, payload(), on_success=callback, **own), "success_"),
        "no training job": (name(TRAIN, "{", **own), "no TrainingJob"),
        "a failure callback": (
            name(TRAIN, payload(), on_failure=callback, **own),
            "failure_callback_name os.system",
        ),
        "a stopped callback": (name(TRAIN, payload(), on_stopped=callback, **own), "stopped_"),
        "a webhook": (name(TRAIN, payload(), webhooks=[hook], **own), "webhooks"),
        "another id": (name(TRAIN, payload(), job_id="train-eu"), "fleet default under another id"),
        "a repeat": (name(TRAIN, payload(), repeat=Repeat(times=9), **own), "repeat"),
        "a second argument": (name(TRAIN, payload(), touch, **own), "than one text"),
        "a named argument": (name(TRAIN, payload(), more=1, **own), "than one text"),
        "no argument": (name(TRAIN, **own), "than one text"),
        "an object": (
            change(data=packed("system", {"os": "os"}, [touch], {})),
            "the function system",
        ),
        "an object's method": (change(data=packed(TRAIN, "os", [payload()], {})), "than one text"),
        "a pickle": (change(data=zlib.compress(b"cos\nsystem\n(S'true'\ntR.")), "no call"),
        "a pickle as meta": (change(meta=b"cos\nsystem\n(S'true'\ntR."), "meta"),
        "a result": (change(result=b"cos\nsystem\n(S'true'\ntR."), "result"),
        "data that unpack to a gigabyte": (
            change(data=zlib.compress(b"[" * 2**26, 9)),
            "more than",
        ),
        "data that unpack to much": (change(data=zlib.compress(b"[" * 20_000)), "more than"),
        "deep data": (change(data=zlib.compress(b"[" * 16_000)), "no call"),
        "data that are cut off": (change(data=packed(TRAIN)[:-4]), "more than"),
        "no data": (change(data=""), "cut off"),
        "data that are plain": (change(data=json.dumps([TRAIN, None, ["a"], {}])), "not packed"),
        "a large field": (change(description="x" * 100_000), "more than"),
        "another queue": (change(origin="elsewhere"), "the queue elsewhere"),
        "a group": (change(group_id="g"), "group_id g"),
        "a dependency": (change(dependency_ids='["a"]', dependency_id="a"), "dependency_id"),
        "no timeout": (change(timeout="-1"), "timeout -1"),
        "a status that is none": (change(status="fine"), "can't be read"),
        "a time that is none": (change(enqueued_at="now"), "can't be read"),
        "retries for ever": (change(retries_left="1000000"), "retries_left 1000000"),
        "a pause that is none": (change(retry_intervals='["a"]'), "retry_intervals"),
        "a result that stays": (change(result_ttl="500"), "result_ttl 500"),
        "a field of its own": (change(anything="x"), "anything x"),
        "a line break": (name("os.system\ntraining_ok", **own), r'"os.system\ntraining_ok"'),
        "no id": (push("a b"), "an id that is none"),
        "an id and more": (push("train-eu:1"), "an id that is none"),
    }


ATTACKS = list(attacks("made"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_job_that_is_not_ours_is_not_read_and_removed(queue, attacker, tmp_path, attack):
    put, says = attacks(tmp_path / "made")[attack]
    put(attacker)
    (job_id,) = attacker.get_job_ids()
    with structlog.testing.capture_logs() as logs, pytest.raises(NoSuchJobError):
        QueuedTraining.fetch(job_id, queue.connection, JSONSerializer)
    (told,) = logs
    assert (told["event"], told["log_level"]) == ("training_job_refused", "error")
    assert told["job"] == job_id
    assert says in told["named"]
    assert len(told["named"]) < 300
    assert told["named"].isprintable()
    assert "removed" in told["advice"]
    assert attacker.get_job_ids() == []
    assert not queue.connection.exists(f"rq:job:{job_id}")
    assert not (tmp_path / "made").exists()


def test_ours_is_read(queue):
    assert queue.enqueue(a_job(), timeout_s=60)
    job = queue.queue.fetch_job("train-default")
    assert TrainingJob.model_validate_json(job.payload).fleet == "default"
    with pytest.raises(NotImplementedError):
        job.perform()


def test_a_job_of_the_last_release_is_read(queue, attacker):
    """It was queued before the services were rolled."""
    retry = rq.Retry(max=3, interval=[1, 10, 60])
    attacker.enqueue(
        TRAIN, payload(), job_id="train-default", job_timeout=120, result_ttl=0, retry=retry
    )
    assert queue.queue.fetch_job("train-default").retries_left == 3


def test_a_refused_job_makes_room_for_the_fleets_own(queue, attacker):
    attacker.enqueue("os.system", "true", job_id="train-default")
    assert queue.status("default") == "queued"
    assert queue.enqueue(a_job(), timeout_s=60)
    assert attacker.get_job_ids() == ["train-default"]
    assert queue.queue.fetch_job("train-default").func_name == TRAIN


def test_what_a_heartbeat_leaves_of_a_deleted_job_is_not_told(queue):
    queue.connection.hset(KEY, "last_heartbeat", "2026-11-22T20:33:01.000000Z")
    with structlog.testing.capture_logs() as logs:
        assert queue.queue.fetch_job("train-default") is None
    assert logs == []


# The worker: it imports Ray, PyTorch and TensorFlow


@pytest.fixture
def ran(monkeypatch):
    """Fleets that a job has run for."""
    from services.trainer import worker as module

    ran = []

    def train(_context, payload):
        ran.append(TrainingJob.model_validate_json(payload).fleet)

    monkeypatch.setattr(module, "train", train)
    return ran


@pytest.fixture
def worker(queue, trainer_context):
    from services.trainer.worker import TrainingWorker

    return TrainingWorker(queue, trainer_context)


def test_the_worker_runs_nothing_but_ours_and_goes_on(queue, worker, attacker, tmp_path, ran):
    """Every attack, each followed by a job of ours; what is not ours would have made a file."""
    everything = attacks(tmp_path / "made")
    for number, (attack, (put, _)) in enumerate(everything.items()):
        with structlog.testing.capture_logs() as logs:
            put(attacker)
            attacker.enqueue(TRAIN, payload(f"f{number}"), job_id=f"train-f{number}", result_ttl=0)
            worker.work(burst=True, logging_level="CRITICAL")
        assert ran[number:] == [f"f{number}"], attack
        assert [log["event"] for log in logs] == ["training_job_refused"], attack
        assert not (tmp_path / "made").exists(), attack
        taken = IntermediateQueue(attacker.key, queue.connection)
        assert attacker.get_job_ids() == taken.get_job_ids() == [], attack
        assert queue.connection.keys("rq:job:*") == [], attack


def test_no_name_out_of_redis_is_looked_up_for_what_runs(queue, worker, ran, monkeypatch):
    queue.enqueue(a_job(), timeout_s=60)
    monkeypatch.setattr("rq.job.import_attribute", None)
    worker.work(burst=True, logging_level="WARNING")
    assert ran == ["default"]


def test_a_job_that_becomes_another_while_its_worker_is_dead_is_not_run(
    queue, worker, attacker, tmp_path, ran, monkeypatch
):
    """Abandoned, waiting for a retry, or stuck between queued and started."""
    made = tmp_path / "made"
    for place in ("wip", "scheduled", "intermediate"):
        attacker.enqueue(
            "os.system", f"touch {made}", job_id="train-default", on_failure=Callback("os.system")
        )
        queue.connection.delete("rq:queue:training")
        if place == "wip":
            queue.connection.hset(KEY, "status", "started")
            queue.connection.zadd("rq:wip:training", {"train-default:1": 1})
        elif place == "scheduled":
            queue.connection.zadd("rq:scheduled:training", {"train-default": 1})
        else:
            queue.connection.rpush("rq:queue:training:intermediate", "train-default")
        with structlog.testing.capture_logs() as logs:
            worker.run_maintenance_tasks()
            worker.work(burst=True, logging_level="WARNING")
        assert [log["event"] for log in logs] == ["training_job_refused"], place
        assert queue.connection.keys("rq:job:*") == [], place
        assert queue.connection.zcard("rq:wip:training") == 0
    assert ran == []
    assert not made.exists()


def test_what_depends_on_a_training_job_is_not_read(queue, worker, attacker, tmp_path, ran):
    """Not even where the job fails for good, when RQ would enqueue them."""
    queue.enqueue(a_job(), timeout_s=60)
    dependency = Dependency("train-default", allow_failure=True)
    attacker.enqueue(
        "os.system", f"touch {tmp_path / 'made'}", job_id="after", depends_on=dependency
    )
    queue.connection.hset(KEY, mapping={"status": "started", "retries_left": 0})
    queue.connection.zadd("rq:wip:training", {"train-default:1": 1})
    queue.connection.delete("rq:queue:training")
    worker.pop_exc_handler()
    worker.run_maintenance_tasks()
    worker.work(burst=True, logging_level="WARNING")
    assert queue.status("default") == "failed"
    assert not (tmp_path / "made").exists()
    assert ran == []


def test_nobody_can_command_the_worker_by_redis(queue, worker):
    worker.bootstrap("WARNING")
    assert queue.connection.publish(worker.pubsub_channel_name, '{"command": "shutdown"}') == 0
    worker.teardown()
