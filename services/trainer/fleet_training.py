"""The training of one fleet, by its settings, and the gate with the candidate's contenders."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from services.trainer.context import Context
from shared.bus import TRAININGS, Bus
from shared.core.arrays import IntArray
from shared.core.guards import Guards
from shared.core.parameters import FleetParameters
from shared.errors import PolicyError
from shared.learning.budget import Budget, TrainingOptions
from shared.learning.models.mixture import Trained
from shared.learning.models.pretrained import pretrained_module
from shared.learning.on_policy.job import Job
from shared.learning.on_policy.training import (
    LEARNT_TRANSITIONS,
    NEWEST_BATCHES,
    learn_on_policy,
    used_up_to,
)
from shared.learning.progress import Progress
from shared.learning.selection.contenders import Deployed, Selection
from shared.learning.selection.gate import GateDecision, cost_on
from shared.learning.selection.live import MOST_LIVE_STEPS, Live, live_beside
from shared.learning.training import TrainingResult, train
from shared.messages import Champion, TrainingOutcome, Transition
from shared.policies.runtime import FleetPolicy, load_policy
from shared.policies.store import PolicyStore
from shared.recorded_demand import Recorded, hold_out, recorded_of
from shared.settings import FleetSettings

Learning = Callable[[Path | None], tuple[TrainingResult, int]]
"""Trains, and writes a checkpoint if given a path. Returns ``(result, steps trained on)``."""

GATE_PART = 0.2
"""Newest fraction of the history, which is kept for the gate."""
LEAST_STEPS = 20
"""Fewest decisions for the gate; with fewer, a candidate is promoted if there is no champion."""
REMEMBERED_DECISIONS = 100
"""Newest gate decisions of a fleet that are searched for demoted versions."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Incumbents:
    """A fleet's champion and runner-up, and the champion's live transitions."""

    champion: Champion | None
    policies: Mapping[str, FleetPolicy]
    """The champion and the runner-up by version, as far as they can be loaded."""
    transitions: Sequence[Transition]
    """The fleet's live transitions since the champion serves."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The champion-challenger gate of one training job."""

    recorded: Recorded
    training: Recorded
    """The demand that candidate and rules are trained on."""
    rows: IntArray
    """The decisions on kept demand."""
    parameters: FleetParameters
    guards: Guards

    def decide(
        self, candidate: Trained, incumbents: Incumbents
    ) -> tuple[GateDecision, Deployed | None]:
        """Select by costs on kept demand and by the champion's live costs.

        Returns ``(decision, policy to deploy)``; the policy is None if the winner is in the store.
        """
        history, parameters = self.recorded.history, self.parameters
        scorer = cost_on(history, self.rows, parameters, self.guards)
        pretrained = pretrained_module(parameters)
        selection = Selection.of(self.training, history, self.rows, parameters, scorer, pretrained)
        champion = None if incumbents.champion is None else incumbents.champion.version
        live = self._live(incumbents)
        decision = selection.decide(candidate, incumbents.policies, champion, live)
        return decision, selection.deployed(decision, candidate)

    def _live(self, incumbents: Incumbents) -> Live | None:
        """The live costs of champion and runner-up; None without a live step or a runner-up."""
        champion = incumbents.champion
        runner_up = None if champion is None else incumbents.policies.get(champion.runner_up or "")
        if champion is None or runner_up is None:
            return None
        return live_beside(
            champion.version,
            runner_up,
            incumbents.transitions,
            self.recorded,
            self.parameters,
            self.guards,
        )


def training_of(
    context: Context, fleet: str, version: str, settings: FleetSettings
) -> tuple[Learning, Gate | None]:
    """``(training function, gate)``; the gate is None for on-policy learning, which has none."""
    if settings.learning == "on_policy":
        return _on_policy(context, fleet, version, settings), None
    return _replay(context, fleet, settings)


def incumbents_of(
    context: Context, fleet: str, champion: Champion | None, parameters: FleetParameters
) -> Incumbents:
    """The champion and the runner-up, and the champion's live transitions."""

    async def read(bus: Bus) -> tuple[list[TrainingOutcome], list[Transition]]:
        decisions = await bus.newest_changes(TRAININGS, fleet, REMEMBERED_DECISIONS)
        if champion is None or champion.runner_up is None:
            return decisions, []
        steps = MOST_LIVE_STEPS + parameters.lead_steps
        return decisions, await bus.newest_transitions(fleet, steps, champion.since)

    decisions, transitions = context.on_bus(read)
    demoted = {decision.champion for decision in decisions if decision.outcome == "demoted"}
    policies = stored_contenders(context.store, champion, demoted, parameters)
    return Incumbents(champion, policies, transitions)


def stored_contenders(
    store: PolicyStore,
    champion: Champion | None,
    demoted: Collection[str | None],
    parameters: FleetParameters,
) -> dict[str, FleetPolicy]:
    """The champion and the runner-up by version, as far as they can be loaded.

    A demoted runner-up is left out: it does not become champion again without an operator.
    """
    found: dict[str, FleetPolicy] = {}
    if champion is None:
        return found
    runner_up = None if champion.runner_up in demoted else champion.runner_up
    for version in filter(None, (champion.version, runner_up)):
        try:
            found[version] = load_policy(store, champion.fleet, version, parameters)
        except PolicyError as error:
            _log.warning("contender_refused", fleet=champion.fleet, reason=str(error))
    return found


def _replay(context: Context, fleet: str, settings: FleetSettings) -> tuple[Learning, Gate]:
    """``(training function on recorded demand, gate on the kept part of it)``."""
    parameters = settings.parameters
    steps = context.on_bus(lambda bus: bus.recorded_steps(fleet))
    recorded = recorded_of(steps, settings.learning_freq)
    training, rows = hold_out(recorded, GATE_PART, parameters, LEAST_STEPS)

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

    def learning(checkpoint: Path | None) -> tuple[TrainingResult, int]:
        options = TrainingOptions(
            settings.gamma,
            context.seed,
            Budget(settings.time_total_s),
            context.num_env_runners,
            context.num_learners,
        )
        trained = train(training, parameters, options, checkpoint, on_progress)
        return trained, len(training.history.demands)

    return learning, Gate(recorded, training, rows, parameters, settings.guards)


def _on_policy(context: Context, fleet: str, version: str, settings: FleetSettings) -> Learning:
    """The training function on unused live transitions.

    As in the notebook it uses the newest ones too, so none can be kept for a gate.
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

    def learning(checkpoint: Path | None) -> tuple[TrainingResult, int]:
        learnt = learn_on_policy(
            transitions, job, context.store, checkpoint, after_batch=context.stop.check
        )
        return learnt, int(learnt.scores[LEARNT_TRANSITIONS])

    return learning
