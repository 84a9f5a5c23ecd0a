"""The training job that RQ runs: train, select, export, verify, publish, promote."""

import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from rq import get_current_job
from rq.exceptions import AbandonedJobError, NoSuchJobError

from services.trainer.context import Context, JobLost
from services.trainer.fleet_training import incumbents_of, training_of
from shared.bus import CHAMPIONS, TRAININGS, Bus
from shared.errors import AutopilotError, BusAway, UnknownFleet
from shared.learning.export.agreement import check_agreement
from shared.learning.export.writer import export
from shared.learning.on_policy.training import exploration_of
from shared.learning.progress import Stages
from shared.learning.selection.contenders import PRETRAINED, Deployed
from shared.learning.selection.gate import CANDIDATE, GateDecision
from shared.learning.training import TrainingResult
from shared.messages import Champion, PolicyManifest, TrainingJob, TrainingOutcome
from shared.policies.runtime import initial_policy
from shared.policies.store import CHECKPOINT, new_version
from shared.recorded_demand import TooLittleHistory

Outcome = Literal["published", "kept", "demoted"]
UNGATED = GateDecision(
    CANDIDATE, {}, 0, reason="on_policy has no gate: every update is promoted, as in the notebook"
)
_EVENTS = {
    "published": "policy_published",
    "kept": "champion_kept",
    "demoted": "champion_demoted",
}

_log = structlog.get_logger(__name__)


def train(context: Context, payload: str) -> str | None:
    """Run a training job, given as the JSON of a `TrainingJob`. Returns the champion's version.

    None if the shared pretrained policy serves, or the job has failed. Too little history and an
    unknown fleet are recorded and not raised, since a retry would fail again. Any other error is
    recorded and raised, and RQ retries. The champion stays until a new version is complete.
    """
    job = TrainingJob.model_validate_json(payload)
    stages = Stages()
    _log.info("training_started", fleet=job.fleet, up_to_step=job.up_to_step)
    try:
        return _train(context, job.fleet, stages)
    except (TooLittleHistory, UnknownFleet) as error:
        _record_failure(context, job.fleet, error, stages.since_start)
        return None
    except Exception as error:
        _record_failure(context, job.fleet, error, stages.since_start)
        raise


def record_abandoned(context: Context, job: Any, kind: type[BaseException], *_: Any) -> None:
    """Record that a job's worker has died; with a context, an exception handler for RQ."""
    if issubclass(kind, AbandonedJobError):
        fleet = TrainingJob.model_validate_json(job.payload).fleet
        error = AutopilotError("the worker of the training job died; the job is retried")
        _record_failure(context, fleet, error, 0.0)


def _train(context: Context, fleet: str, stages: Stages) -> str | None:
    settings = context.fleets[fleet]
    # A fleet has one job at a time, so unfinished files are those of a killed job.
    context.store.sweep(fleet)
    version = new_version(context.clock())
    learning, gate = training_of(context, fleet, version, settings)
    stages.done("read")
    with context.store.writing(fleet, version) as folder:
        with context.stop.interrupts():
            trained, trained_on = learning(folder / CHECKPOINT if context.save_model else None)
            stages.include(trained.stage_seconds)
            before = context.store.champion(fleet)
            decision: GateDecision = UNGATED
            deployed: Deployed | None = trained.policy
            if gate is not None:
                incumbents = incumbents_of(context, fleet, before, settings.parameters)
                decision, deployed = gate.decide(trained.policy, incumbents)
            shared = before is None and decision.winner == PRETRAINED
            stages.done("gate")
            draft = _draft(context, fleet, version, trained, trained_on, decision)
            if gate is None:
                draft = draft.model_copy(update={"exploration": exploration_of(trained.module)})
            # A fleet gets its own version only if that is better than the shared pretrained policy.
            written = (
                None
                if shared or deployed is None
                else _write(context, draft, decision.winner, deployed, folder)
            )
            stages.done("export")
        serves, promoted = None, False
        _check_own()
        if not shared:
            serves, promoted = _promote(context, fleet, before, decision.winner, written, folder)
    stages.done("publish")
    _announce_end(context, fleet, before, serves, promoted, decision, trained, stages)
    return None if serves is None else serves.version


def _check_own() -> None:
    """Raises `JobLost` if RQ has given the running job to another worker, after a lost heartbeat.

    Then the other worker trains and publishes.
    """
    own = get_current_job()
    if own is None:
        return
    try:
        now = own.fetch(own.id, own.connection, own.serializer)
    except NoSuchJobError:
        raise JobLost from None
    if now.worker_name != own.worker_name or not now.is_started:
        raise JobLost


def _write(
    context: Context, draft: PolicyManifest, winner: str, deployed: Deployed, folder: Path
) -> PolicyManifest:
    """Export and verify the policy to deploy; only a candidate keeps its checkpoint."""
    if winner != CANDIDATE:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        draft = draft.model_copy(update={"kind": winner})
    parameters = context.fleets[draft.fleet].parameters
    export(deployed, folder)
    check_agreement(deployed, folder, parameters, np.random.default_rng(context.seed))
    return draft.model_copy(
        update={"observation_fields": deployed.fields, "experts": deployed.experts}
    )


def _promote(
    context: Context,
    fleet: str,
    before: Champion | None,
    winner: str,
    written: PolicyManifest | None,
    folder: Path,
) -> tuple[Champion, bool]:
    """Promote the winner, after publishing what was written for it.

    Returns ``(champion, whether it was promoted by this job)``. If nothing new was written and an
    operator has promoted another version since `before`, the decision is obsolete, and that
    version stays.
    """
    if written is not None:
        context.store.publish(written, folder)
        return context.store.set_champion(fleet, written.version, context.clock()), True
    serving = context.store.champion(fleet)
    if serving is not None and (serving != before or serving.version == winner):
        return serving, False
    return context.store.set_champion(fleet, winner, context.clock()), True


def _announce_end(
    context: Context,
    fleet: str,
    before: Champion | None,
    serves: Champion | None,
    promoted: bool,
    decision: GateDecision,
    trained: TrainingResult,
    stages: Stages,
) -> None:
    """Record the gate's decision, and announce the champion; None: the shared pretrained policy.

    `promoted`: whether this job has promoted it.
    """
    shared = initial_policy(context.fleets[fleet].parameters).version
    champion, runner_up = (shared, None) if before is None else (before.version, before.runner_up)
    version = shared if serves is None else serves.version
    moved: Outcome = "demoted" if decision.demoted else "published"
    outcome: Outcome = moved if promoted else "kept"
    live, live_costs = decision.live, {}
    if live is not None and runner_up is not None:
        live_costs = {champion: live.champion, runner_up: live.runner_up}
    ended = TrainingOutcome(
        fleet=fleet,
        at=context.clock(),
        outcome=outcome,
        version=version,
        champion=champion,
        runner_up=runner_up,
        winner=decision.winner,
        costs=decision.costs,
        scored_steps=decision.steps,
        live_costs=live_costs,
        live_steps=0 if live is None else live.steps,
        reason=decision.reason,
        seconds=stages.since_start,
        environment_steps=trained.environment_steps,
    )
    context.on_bus(lambda bus: _announce(bus, serves, ended))
    _log.info(
        _EVENTS[outcome],
        version=version,
        fleet=fleet,
        winner=decision.winner,
        costs={name: round(cost, 3) for name, cost in decision.costs.items()},
        scored_steps=decision.steps,
        live_costs={name: round(cost, 3) for name, cost in live_costs.items()},
        reason=decision.reason,
        seconds=round(stages.since_start, 3),
        stage_seconds=stages.seconds,
    )


async def _announce(bus: Bus, champion: Champion | None, outcome: TrainingOutcome) -> None:
    if champion is not None:
        await bus.publish(CHAMPIONS, champion.fleet, champion)
    await bus.publish(TRAININGS, outcome.fleet, outcome)


def _draft(
    context: Context,
    fleet: str,
    version: str,
    trained: TrainingResult,
    trained_on: int,
    decision: GateDecision,
) -> PolicyManifest:
    costs = {f"gate_cost {name}": cost for name, cost in decision.costs.items()}
    return PolicyManifest.draft(
        context.fleets[fleet].parameters,
        version=version,
        fleet=fleet,
        created_at=context.clock(),
        observation_fields=trained.module.fields,
        scores=trained.scores | costs,
        trained_on_steps=trained_on,
        seed=context.seed,
    )


def _record_failure(context: Context, fleet: str, error: Exception, seconds: float) -> None:
    """Log a failure and publish it; Redis may be unavailable."""
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
        context.on_bus(lambda bus: bus.publish(TRAININGS, fleet, outcome))
    except BusAway as away:
        _log.warning("redis_is_away", error=str(away))
