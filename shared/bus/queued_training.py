"""Jobs of the training queue: a job is refused unless `TrainingQueue` could have queued it.

RQ imports and calls the function and callbacks that a job's hash in Redis names, calls its webhook
URLs, unpacks its data of any size, and follows its dependencies. So anyone with access to Redis
could run code in the trainer. Therefore a hash is checked before RQ reads it, and the function that
runs is not looked up by a name from Redis: see `services/trainer/worker.py`.
"""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Self

import redis
import structlog
from rq.exceptions import NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import JOB_ID_PATTERN, Job
from rq.queue import Queue
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer

from shared.bus.keys import TRAINING_QUEUE
from shared.messages import TrainingJob

TRAINING_FUNCTION = "services.trainer.jobs.train"
LARGEST_HASH = 64 * 1024
"""Most bytes of a job's hash; ours have about one thousand."""
LARGEST_DATA = 16 * 1024
"""Most bytes of a job's unpacked data; ours have about two hundred."""
MOST_RETRIES = 100
LONGEST_SECONDS = 2**31 - 1

QUEUED = Queue.redis_queue_namespace_prefix + TRAINING_QUEUE
TAKEN = IntermediateQueue.get_intermediate_queue_key(QUEUED)
"""The list of jobs between queued and started."""
RETRIED = ScheduledJobRegistry.key_template.format(TRAINING_QUEUE)

_TIMES = frozenset({"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"})
_TEXTS = frozenset({"data", "description", "origin", "status", "worker_name", "retry_intervals"})
_NUMBERS = {
    "timeout": range(1, LONGEST_SECONDS + 1),
    "retries_left": range(MOST_RETRIES + 1),
    "result_ttl": range(1),
}
_IGNORED = frozenset({"exc_info"})
"""Fields that RQ writes and we never read."""
_SHOWN = 80
"""Most characters of a name from Redis in the log."""

_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """Raised with the part of a job that none of ours has."""


class QueuedTraining(Job):  # type: ignore[misc]
    """A training job as RQ stores it. Reading any other job removes it and raises `NoSuchJobError`."""

    @classmethod
    def id_for(cls, fleet: str) -> str:
        """The id of a fleet's job, of which there is at most one at a time."""
        return f"train-{fleet}"

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> Self:
        """Read a job. Raises `NoSuchJobError`, also for a refused job, which is removed."""
        try:
            _check_id(id)
            job: Self = super().fetch(id, connection, serializer)
        except _Refused as refused:
            _remove(id, connection, str(refused))
            raise NoSuchJobError(f"refused job: {refused}") from None
        return job

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Any, serializer: Any = None
    ) -> list[Self | None]:
        """Read jobs; None for each that is missing or refused."""
        jobs: list[Self | None] = []
        for job_id in job_ids:
            try:
                jobs.append(cls.fetch(job_id, connection, serializer))
            except NoSuchJobError:
                jobs.append(None)
        return jobs

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Load a hash from Redis, if it is that of a training job; raises `_Refused`."""
        if b"data" not in raw_data:
            # A heartbeat that came after the job was deleted leaves this.
            raise NoSuchJobError(f"no such job: {self.id}")
        if sum(map(len, raw_data.values())) > LARGEST_HASH:
            raise _Refused(f"more than {LARGEST_HASH} bytes")
        kept = {field: value for field, value in raw_data.items() if value and not _ignored(field)}
        for field, value in sorted(kept.items()):
            _check_field(field, value)
        job = _job_in(raw_data[b"data"])
        if self.id != self.id_for(job.fleet):
            raise _Refused(f"a job of fleet {job.fleet} under another id")
        try:
            super().restore(kept)
        except Exception as error:  # noqa: BLE001 - RQ's parsers raise anything
            raise _Refused(f"a field that can't be read: {_shown(str(error))}") from None
        if self.origin != TRAINING_QUEUE:
            raise _Refused(f"the queue {_shown(self.origin)}")
        if not _are_intervals(self.retry_intervals):
            raise _Refused("retry_intervals that are none")

    @property
    def payload(self) -> str:
        """The JSON of a `TrainingJob`."""
        return str(self.args[0])

    def _execute(self) -> Any:
        """RQ would import what the job names here."""
        raise NotImplementedError("only a trainer runs training jobs")


def _check_id(job_id: str) -> None:
    """Raises `_Refused` for an id that RQ would read under another name than its lists have."""
    if not JOB_ID_PATTERN.fullmatch(job_id):
        raise _Refused("an id that is none")


def _ignored(field: bytes) -> bool:
    return field.decode(errors="replace") in _IGNORED


def _check_field(field: bytes, value: bytes) -> None:
    """Raises `_Refused` for a field that our jobs don't have, such as a callback."""
    name = field.decode(errors="replace")
    if name in _NUMBERS:
        if not re.fullmatch(rb"[0-9]{1,10}", value) or int(value) not in _NUMBERS[name]:
            raise _Refused(f"{name} {_shown(value)}")
    elif name not in _TIMES and name not in _TEXTS:
        raise _Refused(f"{_shown(name)} {_shown(value)}")


def _job_in(data: bytes) -> TrainingJob:
    """The argument of our function, the only thing that a job's data may be."""
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(data, LARGEST_DATA)
    except zlib.error:
        raise _Refused("data that are not packed") from None
    if not unpacking.eof:
        raise _Refused(f"data that are cut off, or have more than {LARGEST_DATA} bytes")
    try:
        name, instance, arguments, named = JSONSerializer.loads(unpacked)
    except (ValueError, TypeError, RecursionError):
        raise _Refused("data that are no call") from None
    if name != TRAINING_FUNCTION:
        raise _Refused(f"the function {_shown(name)}")
    (payload, *others) = arguments if isinstance(arguments, list) and arguments else [None]
    if instance is not None or named != {} or others or not isinstance(payload, str):
        raise _Refused(f"other arguments than one text: {_shown(arguments)}")
    try:
        return TrainingJob.model_validate_json(payload)
    except ValueError:
        raise _Refused(f"an argument that is no TrainingJob: {_shown(payload)}") from None


def _are_intervals(intervals: Any) -> bool:
    """Whether these are valid waiting times between retries, in seconds; None: no waiting."""
    return intervals is None or (
        isinstance(intervals, list)
        and 0 < len(intervals) <= MOST_RETRIES
        and all(type(each) is int and 0 <= each <= LONGEST_SECONDS for each in intervals)
    )


def _remove(job_id: str, connection: redis.Redis, named: str) -> None:
    """Remove a refused job from the queue, and log it."""
    with connection.pipeline(transaction=True) as pipeline:
        pipeline.delete(QueuedTraining.key_for(job_id))
        for listed in (QUEUED, TAKEN):
            pipeline.lrem(listed, 0, job_id)
        pipeline.zrem(RETRIED, job_id)
        pipeline.execute()
    _log.error(
        "training_job_refused",
        job=_shown(job_id),
        named=named,
        advice="none of ours, so it is removed and does not run: somebody else writes to Redis; "
        "find out who, and give Redis a password or a new one",
    )


def _shown(value: Any) -> str:
    """A value from Redis for the log: printable ASCII of bounded length."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    if not (isinstance(text, str) and text.isascii() and text.isprintable()):
        text = json.dumps(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
