"""What RQ runs: learn a fleet's policy, export, check, publish, move the champion."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from rq.exceptions import AbandonedJobError

from services.trainer.evaluation import Seeing, targets_after
from services.trainer.export import check_agreement, export, write
from services.trainer.gate import CANDIDATE, Verdict, judge, keep_for_gate, tuned_rules
from services.trainer.learning import Learnt, learn
from services.trainer.on_policy import (
    LEARNT_TRANSITIONS,
    NEWEST_BATCHES,
    Job,
    learn_on_policy,
    used_up_to,
)
from services.trainer.progress import Progress, Stages
from services.trainer.replay import Recorded, TooLittleHistory, decision_rows, recorded_of
from services.trainer.rule_graph import RuleGraph
from services.trainer.rules import ServedRule
from shared.bus import CHAMPIONS, TRAININGS, Bus
from shared.core.backtest import decide
from shared.core.observation import IntArray, notebook_fields
from shared.core.parameters import FleetParameters
from shared.errors import AutopilotError, BusAway, PolicyError, UnknownFleet
from shared.messages import Champion, PolicyManifest, TrainingJob, TrainingOutcome
from shared.policies import LearntPolicy, load_policy
from shared.policy_store import CHECKPOINT, PolicyStore, new_version
from shared.settings import Fleets, FleetSettings

T = TypeVar("T")
FloatArray = NDArray[np.float64]
Learning = Callable[[Path | None], tuple[Learnt, int]]
"""Learns, writes a checkpoint if given a path; also returns how many steps it was trained on."""

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
    num_env_runners: int = 0
    num_learners: int = 0


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


def _train(context: Context, fleet: str, stages: Stages) -> str | None:
    settings = context.fleets[fleet]
    parameters = settings.parameters
    # A fleet has one job at a time, so what is half-written is a killed job's.
    context.store.sweep(fleet)
    steps = _on_bus(context, lambda bus: bus.recorded_steps(fleet))
    recorded = recorded_of(steps, settings.learning_freq)
    version = new_version(context.clock())
    if settings.learning == "on_policy":
        # It learns from the newest transitions, as the notebook does: none can be kept from it.
        training, rows = recorded, decision_rows(recorded, parameters)[:0]
        learning = _on_policy(context, fleet, version, settings)
    else:
        training, rows = keep_for_gate(recorded, parameters)
        learning = _replay(context, fleet, settings, training)
    stages.done("read")
    with context.store.writing(fleet, version) as folder:
        with context.stop.interrupts():
            learnt, trained_on = learning(folder / CHECKPOINT if context.save_model else None)
            stages.include(learnt.stage_seconds)
            champion = context.store.champion(fleet)
            targets = {CANDIDATE: _targets(learnt.module, recorded, parameters, rows)}
            targets |= _serving(context, champion, recorded, parameters, rows)
            rules = tuned_rules(training.history, parameters) if len(rows) else {}
            for name, rule in rules.items():
                targets[name] = _targets(rule, recorded, parameters, rows)
            incumbent = champion.version if champion and champion.version in targets else None
            if settings.learning == "on_policy":
                incumbent = None
            verdict = judge(targets, incumbent, recorded.history, parameters, rows)
            stages.done("gate")
        draft = _draft(context, fleet, version, parameters, learnt, trained_on, verdict)
        serves = _crown(context, draft, verdict, learnt, rules.get(verdict.winner), folder)
    stages.done("publish")
    _tell(context, serves, verdict, incumbent, learnt, stages)
    return serves.version


def _targets(
    policy: Seeing, recorded: Recorded, parameters: FleetParameters, rows: IntArray
) -> FloatArray:
    """What a policy would have asked for after each row, in servers."""
    notebook = policy.fields == notebook_fields(parameters.history_len)
    seen = replace(parameters, observation="notebook" if notebook else "calendar")
    return targets_after(policy.decide, recorded.history, seen, rows)


def _serving(
    context: Context,
    champion: Champion | None,
    recorded: Recorded,
    parameters: FleetParameters,
    rows: IntArray,
) -> dict[str, FloatArray]:
    """The targets of the champion and the runner-up, of those that can serve, by version."""
    targets: dict[str, FloatArray] = {}
    if champion is None:
        return targets
    for version in filter(None, (champion.version, champion.runner_up)):
        try:
            policy = load_policy(context.store, champion.fleet, version, parameters)
        except PolicyError as error:
            _log.warning("contender_refused", fleet=champion.fleet, reason=str(error))
            continue
        targets[version] = _stepped(policy, recorded, parameters, rows)
    return targets


def _stepped(
    policy: LearntPolicy, recorded: Recorded, parameters: FleetParameters, rows: IntArray
) -> FloatArray:
    """As `_targets`, one step after the other: an artefact may read what it asked for before."""
    if not len(rows):
        return np.empty(0)
    first = int(rows[0])
    decisions = decide(
        policy.action, policy.fields, recorded.history, parameters, first, int(rows[-1]) + 1
    )
    stepped: FloatArray = decisions[rows - first]
    return stepped


def _crown(
    context: Context,
    draft: PolicyManifest,
    verdict: Verdict,
    learnt: Learnt,
    rule: ServedRule | None,
    folder: Path,
) -> Champion:
    """Make the winner champion: write and publish it first where it is new."""
    rng = np.random.default_rng(context.seed)
    parameters = context.fleets[draft.fleet].parameters
    if rule is not None:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        write(RuleGraph(rule), len(rule.fields), folder)
        check_agreement(rule, folder, parameters, rng)
        draft = draft.model_copy(update={"kind": verdict.winner, "observation_fields": rule.fields})
    elif verdict.winner == CANDIDATE:
        export(learnt.module, folder)
        check_agreement(learnt.module, folder, parameters, rng)
    else:
        serving = context.store.champion(draft.fleet)
        if serving is not None and serving.version == verdict.winner:
            return serving
        return context.store.set_champion(draft.fleet, verdict.winner, context.clock())
    context.store.publish(draft, folder)
    return context.store.set_champion(draft.fleet, draft.version, context.clock())


def _tell(
    context: Context,
    serves: Champion,
    verdict: Verdict,
    incumbent: str | None,
    learnt: Learnt,
    stages: Stages,
) -> None:
    """Record how the gate decided, and announce who serves."""
    kept = serves.version == incumbent
    outcome = TrainingOutcome(
        fleet=serves.fleet,
        at=context.clock(),
        outcome="kept" if kept else "published",
        version=serves.version,
        costs=verdict.costs,
        scored_steps=verdict.steps,
        seconds=stages.since_start,
        environment_steps=learnt.environment_steps,
    )
    _on_bus(context, lambda bus: _announce(bus, serves, outcome))
    _log.info(
        "champion_kept" if kept else "policy_published",
        version=serves.version,
        fleet=serves.fleet,
        winner=verdict.winner,
        costs={name: round(cost, 3) for name, cost in verdict.costs.items()},
        scored_steps=verdict.steps,
        seconds=round(stages.since_start, 3),
        stage_seconds=stages.seconds,
    )


def _replay(context: Context, fleet: str, settings: FleetSettings, training: Recorded) -> Learning:
    """What learns from recorded demand."""

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

    def learning(checkpoint: Path | None) -> tuple[Learnt, int]:
        learnt = learn(
            training,
            settings.parameters,
            gamma=settings.gamma,
            seconds=settings.time_total_s,
            seed=context.seed,
            checkpoint=checkpoint,
            on_progress=on_progress,
            num_env_runners=context.num_env_runners,
            num_learners=context.num_learners,
        )
        return learnt, len(training.history.demands)

    return learning


def _on_policy(context: Context, fleet: str, version: str, settings: FleetSettings) -> Learning:
    """Read the live transitions that are new; what then learns from them."""
    after = used_up_to(context.store, fleet)
    count = NEWEST_BATCHES * settings.train_batch_size
    transitions = _on_bus(context, lambda bus: bus.newest_transitions(fleet, count, after))
    job = Job(
        fleet=fleet,
        version=version,
        # Live transitions have the notebook's observations.
        parameters=replace(settings.parameters, observation="notebook"),
        gamma=settings.gamma,
        batch_size=settings.train_batch_size,
        seconds=settings.time_total_s,
        seed=context.seed,
        num_learners=context.num_learners,
    )

    def learning(checkpoint: Path | None) -> tuple[Learnt, int]:
        learnt = learn_on_policy(
            transitions, job, context.store, checkpoint, after_batch=context.stop.check
        )
        return learnt, int(learnt.scores[LEARNT_TRANSITIONS])

    return learning


async def _announce(bus: Bus, champion: Champion, outcome: TrainingOutcome) -> None:
    await bus.publish(CHAMPIONS, champion.fleet, champion)
    await bus.publish(TRAININGS, outcome.fleet, outcome)


def _draft(
    context: Context,
    fleet: str,
    version: str,
    parameters: FleetParameters,
    learnt: Learnt,
    trained_on: int,
    verdict: Verdict,
) -> PolicyManifest:
    costs = {f"gate_cost {name}": cost for name, cost in verdict.costs.items()}
    return PolicyManifest(
        version=version,
        fleet=fleet,
        created_at=context.clock(),
        observation_fields=learnt.module.fields,
        history_len=parameters.history_len,
        min_servers=parameters.min_servers,
        max_servers=parameters.max_servers,
        action_factor=parameters.action_factor,
        scores=learnt.scores | costs,
        trained_on_steps=trained_on,
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
