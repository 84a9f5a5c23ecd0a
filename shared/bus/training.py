"""The queue of training jobs."""

from collections.abc import Iterator
from contextlib import contextmanager

import rq
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.registry import ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from shared.bus.connection import SOCKET_TIMEOUT_SECONDS, Connection, asking, away, connect_blocking
from shared.bus.keys import TRAINING_QUEUE
from shared.messages import TrainingJob

TRAINING_FUNCTION = "services.trainer.jobs.train"
TRAINING_RETRIES = 3
_QUEUED = rq.Queue.redis_queue_namespace_prefix + TRAINING_QUEUE
_TAKEN = IntermediateQueue.get_intermediate_queue_key(_QUEUED)
"""Where a job is between queued and started."""
_STARTED = StartedJobRegistry.key_template.format(TRAINING_QUEUE)
_RETRIED = ScheduledJobRegistry.key_template.format(TRAINING_QUEUE)


class Trainings(Connection):
    """What there is to do for trainers."""

    async def training_jobs(self) -> int:
        """Training jobs that are queued, running, or wait for a retry: none may go unnoticed."""
        with asking():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.llen(_QUEUED)
                pipeline.llen(_TAKEN)
                pipeline.zcard(_STARTED)
                pipeline.zcard(_RETRIED)
                return sum(await pipeline.execute())


class TrainingQueue:
    """The RQ queue of training jobs: at most one a fleet, queued or running. Not for asyncio.

    Raises `BadSetting` for a bad URL.
    """

    def __init__(self, url: str) -> None:
        self.connection = connect_blocking(
            url, socket_connect_timeout=SOCKET_TIMEOUT_SECONDS, health_check_interval=30
        )
        self.queue = rq.Queue(
            TRAINING_QUEUE, connection=self.connection, serializer=JSONSerializer, is_async=True
        )

    def enqueue(self, job: TrainingJob, timeout_s: float) -> bool:
        """Queue a job unless its fleet has one queued or running; say whether it was queued.

        A job that has failed for good makes room for the next one.
        """
        job_id = f"train-{job.fleet}"
        with away():
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
        with away():
            yield

    def status(self, fleet: str) -> str | None:
        """RQ's status of the fleet's job, such as `queued` or `failed`, or None without one."""
        with away():
            job = self.queue.fetch_job(f"train-{fleet}")
            return None if job is None else str(job.get_status().value)
