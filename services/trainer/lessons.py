"""How a job learns, by the fleet's setting, and who the candidate meets in the gate."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from services.trainer.budget import Budget, TrainingOptions
from services.trainer.contest import Contest, Rivals, who_serves
from services.trainer.context import Context
from services.trainer.gate import MOST_LIVE_STEPS, keep_for_gate, tuned_rules
from services.trainer.general import general_module
from services.trainer.learning import Learnt, train
from services.trainer.on_policy import (
    LEARNT_TRANSITIONS,
    NEWEST_BATCHES,
    Job,
    learn_on_policy,
    used_up_to,
)
from services.trainer.progress import Progress
from services.trainer.replay import recorded_of
from shared.bus import TRAININGS, Bus
from shared.core.parameters import FleetParameters
from shared.messages import Champion, TrainingOutcome, Transition
from shared.settings import FleetSettings

Learning = Callable[[Path | None], tuple[Learnt, int]]
"""Learns, writes a checkpoint if given a path; also returns how many steps it was trained on."""

REMEMBERED_VERDICTS = 100
"""Of a fleet, in which a version that was demoted is looked for."""

_log = structlog.get_logger(__name__)


def lesson_of(
    context: Context, fleet: str, version: str, settings: FleetSettings
) -> tuple[Learning, Contest | None]:
    """What learns, and the contest that the candidate has to win; None: it serves without one."""
    if settings.learning == "on_policy":
        return _on_policy(context, fleet, version, settings), None
    return _replay(context, fleet, settings)


def rivals_of(
    context: Context, fleet: str, champion: Champion | None, parameters: FleetParameters
) -> Rivals:
    """The champion and the runner-up, and how the champion has done."""

    async def read(bus: Bus) -> tuple[list[TrainingOutcome], list[Transition]]:
        verdicts = await bus.newest_changes(TRAININGS, fleet, REMEMBERED_VERDICTS)
        if champion is None or champion.runner_up is None:
            return verdicts, []
        steps = MOST_LIVE_STEPS + parameters.lead_steps
        return verdicts, await bus.newest_transitions(fleet, steps, champion.since)

    verdicts, transitions = context.on_bus(read)
    demoted = {verdict.champion for verdict in verdicts if verdict.outcome == "demoted"}
    policies = who_serves(context.store, champion, demoted, parameters)
    return Rivals(champion, policies, transitions)


def _replay(context: Context, fleet: str, settings: FleetSettings) -> tuple[Learning, Contest]:
    """What learns from recorded demand, and the contest on what is kept of it."""
    parameters = settings.parameters
    steps = context.on_bus(lambda bus: bus.recorded_steps(fleet))
    recorded = recorded_of(steps, settings.learning_freq)
    training, rows = keep_for_gate(recorded, parameters)
    rules = tuned_rules(training.history, parameters) if len(rows) else {}

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
        options = TrainingOptions(
            settings.gamma,
            context.seed,
            Budget(settings.time_total_s),
            context.num_env_runners,
            context.num_learners,
        )
        learnt = train(training, parameters, options, checkpoint, on_progress)
        return learnt, len(training.history.demands)

    general = general_module(parameters)
    return learning, Contest(recorded, rows, parameters, rules, general, settings.guards)


def _on_policy(context: Context, fleet: str, version: str, settings: FleetSettings) -> Learning:
    """What learns from the live transitions that are new.

    It learns from the newest, as the notebook does: none can be kept from it to score it on.
    """
    after = used_up_to(context.store, fleet)
    count = NEWEST_BATCHES * settings.train_batch_size
    transitions = context.on_bus(lambda bus: bus.newest_transitions(fleet, count, after))
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
