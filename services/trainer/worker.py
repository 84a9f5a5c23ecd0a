"""The RQ worker: runs jobs in this process, with its Ray session, and retries abandoned jobs."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from rq.exceptions import NoSuchJobError
from rq.executions import ExecutionRegistry
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import SimpleWorker
from rq.worker_registration import clean_worker_registry

from services.trainer.context import Context, JobLost, TrainingStopped
from services.trainer.jobs import record_abandoned, train
from shared.bus import QueuedTraining, TrainingQueue
from shared.errors import BusAway
from shared.probe import beat

BEAT_SECONDS = 5.0
"""Between two heartbeats of a running job."""
ABANDONED_SECONDS = 20
"""A job without a heartbeat for this time is retried: its worker was killed."""
UPKEEP_SECONDS = 5
"""Between two searches for abandoned jobs and for due retries."""
WORKER_TTL_SECONDS = 20
"""RQ waits 15 s less than this for a job, then runs its maintenance."""
LONGEST_RECONNECT_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class RunnableTraining(QueuedTraining):
    """A training job that runs `train`: the function is not looked up by its name in Redis."""

    context: Context
    """Set by the worker that runs the job."""

    def _execute(self) -> str | None:
        return train(self.context, self.payload)


class StartedTrainings(StartedJobRegistry):  # type: ignore[misc]
    """The running jobs; RQ's own class would read their dependents, as unchecked jobs."""

    def __init__(self, queue: Any) -> None:
        super().__init__(queue=queue, job_class=queue.job_class)
        self._queue = queue

    def get_queue(self) -> Any:
        return self._queue


class TrainingWorker(SimpleWorker):  # type: ignore[misc]
    """Runs training jobs one after the other in this process.

    RQ's `SimpleWorker` sends no heartbeats while a job runs, so a killed worker's job would be
    retried only after its timeout; this one sends them from a thread. RQ's scheduler, which
    enqueues due retries, is forked from the worker; this worker does that itself, since Ray and
    torch don't survive a fork.
    """

    max_connection_wait_time = LONGEST_RECONNECT_SECONDS

    def __init__(
        self, queue: TrainingQueue, context: Context, heartbeat: Path | None = None
    ) -> None:
        """`heartbeat` is a file that is touched with every heartbeat that Redis has accepted."""
        self._training = queue
        self._context = context
        self._stop = context.stop
        self._heartbeat = heartbeat
        super().__init__(
            [queue.queue],
            connection=queue.connection,
            job_class=RunnableTraining,
            serializer=JSONSerializer,
            exception_handlers=[partial(record_abandoned, context)],
            maintenance_interval=UPKEEP_SECONDS,
            worker_ttl=WORKER_TTL_SECONDS,
        )

    def execute_job(self, job: Any, queue: Any) -> None:
        # RQ lists the execution of a killed worker beyond its expiry, and then fails to delete the
        # job when it succeeds.
        self.connection.delete(ExecutionRegistry(job.id, self.connection).key)
        execution = self.prepare_execution(job)
        job.context = self._context
        with self._beating(job, execution):
            self.perform_job(job, queue, execution)
        self.set_state("idle")

    def get_heartbeat_ttl(self, *_: Any, **__: Any) -> int:
        return ABANDONED_SECONDS

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        super().heartbeat(timeout, pipeline)
        if pipeline is None:
            beat(self._heartbeat)

    def request_stop(self, signum: int, frame: Any) -> None:
        """On SIGTERM or SIGINT: exit if idle, else stop training and requeue the job."""
        self._stop.request()
        super().request_stop(signum, frame)
        self._stop.check()

    def handle_job_failure(self, job: Any, *arguments: Any, **named: Any) -> None:
        if isinstance(sys.exception(), JobLost):
            # The other worker records the end of the job.
            self.set_current_job_id(None)
            return
        if self._stop.requested and job.retries_left is not None:
            # A stop is not a failure of the job, so it does not use up a retry.
            job.retries_left += 1
        super().handle_job_failure(job, *arguments, **named)

    def handle_exception(self, job: Any, *exc_info: Any) -> None:
        """Log one line instead of RQ's traceback: `train` has logged the error."""
        kind, error = exc_info[:2]
        if issubclass(kind, TrainingStopped):
            _log.info("training_stopped", job=job.id)
        elif issubclass(kind, JobLost):
            _log.warning("training_lost", job=job.id, reason="another worker has taken the job")
        else:
            _log.error("training_job_raised", job=job.id, error=f"{kind.__name__}: {error}")

    def subscribe(self) -> None:
        """Ignore RQ's commands by Redis, such as `shutdown`: we send none."""

    def run_maintenance_tasks(self) -> None:
        self.clean_registries()
        for queue in self.queues:
            self._enqueue_due_retries(queue)

    def clean_registries(self) -> None:
        """RQ's maintenance, without the dependencies, groups and rate limits that we don't use."""
        for queue in self.queues:
            if queue.acquire_maintenance_lock():
                StartedTrainings(queue).cleanup(exception_handlers=self._exc_handlers)
                FailedJobRegistry(queue=queue, job_class=queue.job_class).cleanup()
                clean_worker_registry(queue)
                queue.intermediate_queue.cleanup(self, queue)
                queue.release_maintenance_lock()
        self.last_cleaned_at = now()

    def _enqueue_due_retries(self, queue: Any) -> None:
        """Enqueue due retries; of several workers, one gets each."""
        registry = ScheduledJobRegistry(queue=queue, job_class=queue.job_class)
        for job_id in registry.get_jobs_to_schedule():
            try:
                registry.requeue(job_id)
            except NoSuchJobError:
                registry.remove(job_id)

    @contextmanager
    def _beating(self, job: Any, execution: Any) -> Iterator[None]:
        """Send heartbeats of a job during the block."""
        ended = threading.Event()

        def keep_beating() -> None:
            while not ended.wait(BEAT_SECONDS):
                try:
                    with self._training.reaching():
                        self.maintain_heartbeats(job, execution)
                    beat(self._heartbeat)
                except BusAway as error:
                    _log.warning("redis_is_away", error=str(error))

        thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(BEAT_SECONDS)
