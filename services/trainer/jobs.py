"""What RQ runs: learn a fleet's policy, export, check, publish, move the champion."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from rq.exceptions import AbandonedJobError

from services.trainer.export import check_agreement, export
from services.trainer.learning import Learnt, Progress, Stages, learn
from services.trainer.replay import TooLittleHistory, segments_of
from shared.bus import CHAMPIONS, TRAININGS, Bus
from shared.core.parameters import FleetParameters
from shared.errors import AutopilotError, BusAway, UnknownFleet
from shared.messages import Champion, PolicyManifest, RecordedStep, TrainingJob, TrainingOutcome
from shared.policy_store import CHECKPOINT, PolicyStore, new_version
from shared.settings import Fleets, FleetSettings

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class TrainingStopped(BaseException):
    """The worker is asked to end: its job goes back to the queue. Not a failure of the job."""


class Stop:
    """Lets a signal handler end the learning under way, and keep any from beginning."""

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def request(self) -> None:
        """Called by a signal handler of the main thread, which then calls `check`."""
        self.requested = True

    def check(self) -> None:
        """Raises `TrainingStopped` when a stop was asked for while it may be obeyed."""
        if self.requested and self._interruptible:
            raise TrainingStopped

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """The block may be stopped; what is outside, such as publishing, runs to its end."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False


@dataclass(frozen=True, slots=True)
class Context:
    """What the jobs of this process work with."""

    redis_url: str
    store: PolicyStore
    fleets: Fleets
    save_model: bool
    seed: int
    clock: Callable[[], datetime]
    stop: Stop


_contexts: list[Context] = []


def set_context(context: Context) -> None:
    """Wire the jobs of this process: RQ calls `train` by its name and can't hand it anything."""
    _contexts[:] = [context]


def train(payload: str) -> str | None:
    """Run a training job, given as the JSON of a `TrainingJob`; the version published, or None.

    Too little history and an unknown fleet are told and not raised: RQ's next try would find the
    same. Any other error is told and raised, and RQ tries again. Whatever happens, the champion
    stays until a new version is complete.
    """
    (context,) = _contexts
    job = TrainingJob.model_validate_json(payload)
    stages = Stages()
    _log.info("training_started", fleet=job.fleet, up_to_step=job.up_to_step)
    try:
        return _train(context, job.fleet, stages)
    except (TooLittleHistory, UnknownFleet) as error:
        _tell_failure(context, job.fleet, error, stages.since_start)
        return None
    except Exception as error:
        _tell_failure(context, job.fleet, error, stages.since_start)
        raise


def tell_abandoned(job: Any, kind: type[BaseException], *_: Any) -> None:
    """Make it visible that a job's worker has died; an exception handler of RQ."""
    if issubclass(kind, AbandonedJobError):
        (context,) = _contexts
        fleet = TrainingJob.model_validate_json(job.args[0]).fleet
        error = AutopilotError("the worker of the training job died; the job is tried again")
        _tell_failure(context, fleet, error, 0.0)


def _train(context: Context, fleet: str, stages: Stages) -> str:
    settings = context.fleets[fleet]
    # A fleet has one job at a time, so what is half-written is a killed job's.
    context.store.sweep(fleet)
    steps = _on_bus(context, lambda bus: bus.recorded_steps(fleet))
    stages.done("read")
    version = new_version(context.clock())
    with context.store.writing(fleet, version) as folder:
        with context.stop.interrupts():
            learnt = _learn(context, fleet, settings, steps, folder)
            stages.include(learnt.stage_seconds)
            export(learnt.module, folder)
            stages.done("export")
            disagreement = check_agreement(
                learnt.module, folder, settings.parameters, np.random.default_rng(context.seed)
            )
            stages.done("check")
        manifest = _manifest(context, fleet, version, settings.parameters, learnt, steps)
        context.store.publish(manifest, folder)
    champion = context.store.set_champion(fleet, version, context.clock())
    stages.done("publish")
    outcome = TrainingOutcome(
        fleet=fleet,
        at=context.clock(),
        outcome="published",
        version=version,
        seconds=stages.since_start,
        environment_steps=learnt.environment_steps,
    )
    _on_bus(context, lambda bus: _announce(bus, champion, outcome))
    _log.info(
        "policy_published",
        version=version,
        fleet=fleet,
        seconds=round(stages.since_start, 3),
        stage_seconds=stages.seconds,
        disagreement=disagreement,
        **{name: round(value, 3) for name, value in learnt.scores.items()},
    )
    return version


def _learn(
    context: Context, fleet: str, settings: FleetSettings, steps: list[RecordedStep], folder: Path
) -> Learnt:
    def on_progress(progress: Progress) -> None:
        context.stop.check()
        _log.info(
            "training_progress",
            fleet=fleet,
            seconds=progress.seconds,
            environment_steps=progress.environment_steps,
            scaled_mean_reward=progress.mean_reward,
            held_out_cost=progress.held_out_cost,
        )

    return learn(
        segments_of(steps),
        settings.parameters,
        gamma=settings.gamma,
        seconds=settings.time_total_s,
        seed=context.seed,
        checkpoint=folder / CHECKPOINT if context.save_model else None,
        on_progress=on_progress,
    )


async def _announce(bus: Bus, champion: Champion, outcome: TrainingOutcome) -> None:
    await bus.publish(CHAMPIONS, champion.fleet, champion)
    await bus.publish(TRAININGS, outcome.fleet, outcome)


def _manifest(
    context: Context,
    fleet: str,
    version: str,
    parameters: FleetParameters,
    learnt: Learnt,
    steps: list[RecordedStep],
) -> PolicyManifest:
    return PolicyManifest(
        version=version,
        fleet=fleet,
        created_at=context.clock(),
        observation_fields=parameters.observation_fields,
        history_len=parameters.history_len,
        min_servers=parameters.min_servers,
        max_servers=parameters.max_servers,
        action_factor=parameters.action_factor,
        scores=learnt.scores,
        trained_on_steps=sum(step.usable for step in steps),
        seed=context.seed,
        sha256={},
    )


def _tell_failure(context: Context, fleet: str, error: Exception, seconds: float) -> None:
    """Make a failure visible, even while Redis is away."""
    reason = str(error) if isinstance(error, AutopilotError) else f"{type(error).__name__}: {error}"
    unexpected = None if isinstance(error, AutopilotError) else error
    _log.error("training_failed", fleet=fleet, error=reason, exc_info=unexpected)
    outcome = TrainingOutcome(
        fleet=fleet,
        at=context.clock(),
        outcome="failed",
        error=reason,
        seconds=seconds,
        environment_steps=0,
    )
    try:
        _on_bus(context, lambda bus: bus.publish(TRAININGS, fleet, outcome))
    except BusAway as away:
        _log.warning("redis_is_away", error=str(away))


def _on_bus(context: Context, use: Callable[[Bus], Awaitable[T]]) -> T:
    """Run something asynchronous on a bus of its own."""

    async def run() -> T:
        bus = Bus.connect(context.redis_url)
        try:
            return await use(bus)
        finally:
            await bus.close()

    return asyncio.run(run())
