"""The queue of training jobs."""

from collections.abc import Iterator
from contextlib import contextmanager

import rq
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from shared.bus.connection import (
    SOCKET_TIMEOUT_SECONDS,
    Connection,
    bus_errors,
    bus_errors_async,
    connect_blocking,
)
from shared.bus.keys import TRAINING_QUEUE
from shared.bus.queued_training import (
    QUEUED,
    RETRIED,
    TAKEN,
    TRAINING_FUNCTION,
    QueuedTraining,
)
from shared.messages import TrainingJob

TRAINING_RETRIES = 3
_STARTED = StartedJobRegistry.key_template.format(TRAINING_QUEUE)
_STATUSES = frozenset(status.value for status in JobStatus)


class Trainings(Connection):
    """The number of training jobs."""

    async def training_jobs(self) -> int:
        """Training jobs that are queued, running, or waiting for a retry."""
        with bus_errors_async():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.llen(QUEUED)
                pipeline.llen(TAKEN)
                pipeline.zcard(_STARTED)
                pipeline.zcard(RETRIED)
                return sum(await pipeline.execute())


class TrainingQueue:
    """The RQ queue of training jobs, at most one per fleet, queued or running. Not for asyncio.

    Raises `BadSetting` for a bad URL.
    """

    def __init__(self, url: str) -> None:
        self.connection = connect_blocking(
            url, socket_connect_timeout=SOCKET_TIMEOUT_SECONDS, health_check_interval=30
        )
        self.queue = rq.Queue(
            TRAINING_QUEUE,
            connection=self.connection,
            job_class=QueuedTraining,
            serializer=JSONSerializer,
        )

    def enqueue(self, job: TrainingJob, timeout_s: float) -> bool:
        """Queue a job unless its fleet has one queued or running. Returns whether it was queued.

        A job that has failed for good is replaced.
        """
        job_id = QueuedTraining.id_for(job.fleet)
        with bus_errors():
            try:
                before = self.queue.fetch_job(job_id)
                if before is not None and (before.is_failed or before.is_finished):
                    before.delete()
                self.queue.enqueue(
                    TRAINING_FUNCTION,
                    job.model_dump_json(),
                    job_id=job_id,
                    unique=True,
                    job_timeout=int(timeout_s),
                    result_ttl=0,
                    retry=rq.Retry(max=TRAINING_RETRIES, interval=[1, 10, 60]),
                )
            except (DuplicateJobError, NoSuchJobError):
                return False
        return True

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """For RQ's own calls on `connection`: raises `BusAway` when Redis does not answer."""
        with bus_errors():
            yield

    def status(self, fleet: str) -> str | None:
        """RQ's status of the fleet's job, such as `queued` or `failed`, or None without one."""
        with bus_errors():
            key = QueuedTraining.key_for(QueuedTraining.id_for(fleet))
            status = self.connection.hget(key, "status")
        text = status.decode(errors="replace") if isinstance(status, bytes) else None
        return text if text in _STATUSES else None
