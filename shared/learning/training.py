"""Train a policy on recorded demand: a hindsight fit, RLlib's PPO on its replay, a refit.

For a trace: ``train(Recorded.unbroken(History(times, demands, step_seconds)), parameters,
options)``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from shared.core.evaluation import HeldOut, evaluate, evaluate_rule
from shared.core.parameters import FleetParameters
from shared.core.replay import decide
from shared.learning.budget import Budget, TrainingOptions
from shared.learning.hindsight.optimizer import BATCH, Heads, Hindsight
from shared.learning.hindsight.samples import SampleSpec, samples_of
from shared.learning.hindsight.synthetic_samples import with_synthetic
from shared.learning.models.mixture import Trained, rule_expert, with_rule
from shared.learning.models.network import ResidualModule, module_of
from shared.learning.models.pretrained import initialised_from, pretrained_nets
from shared.learning.models.rule_policy import TunedRulePolicy
from shared.learning.ppo.algorithm import ppo_on
from shared.learning.progress import BestSoFar, Progress, Stages, Watch
from shared.recorded_demand import Recorded, decision_rows, hold_out, replayable

HELD_OUT = 0.15
"""Last fraction of the history, held out from training for early stopping and for the scores."""
HINDSIGHT_PART = 0.35
"""Fraction of the time for the hindsight fit, and again for the refit with the held-out part."""
HINDSIGHT_SECONDS = 30.0
"""Most time of a hindsight fit: it has converged by then, and PPO gets the rest."""
HINDSIGHT_PASSES = 400
"""Most epochs over the recorded decisions. More overfits a short history (on excerpts of real
traces, 1,000 epochs cost up to 14 % more than 400)."""
LEAST_UPDATES = 300
"""Fewest updates, whatever the epochs."""
WORTH_KEEPING = 0.03
"""Fraction by which PPO must improve the held-out reward; less may be chance, among its many
evaluations."""
LEAST_TO_CHOOSE_ON = 500
"""Fewest held-out steps on which PPO is kept. On fewer, an improvement is chance as well, and a
refit that includes the newest demand is better."""
UPDATES_PER_ROUND = 50
"""Between two checks of the clock, and two evaluations on the held-out part."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained module and the figures of its training."""

    module: ResidualModule
    environment_steps: int
    """Steps replayed by PPO."""
    scores: dict[str, float]
    """By name; costs in servers per step."""
    stage_seconds: dict[str, float]
    validated: Trained
    """The policy before it was fitted to the held-out part: a selection on that part scores it."""
    rule: TunedRulePolicy | None = None
    """The rule in the module's mixture, where the observation has the fields for one."""
    hindsight_decisions: int = 0
    """Samples that the hindsight fits drew for each net: recorded, augmented and synthetic."""

    @property
    def policy(self) -> Trained:
        """The candidate: the module, mixed with the rule."""
        return with_rule(self.module, self.rule)


def train(
    recorded: Recorded,
    parameters: FleetParameters,
    options: TrainingOptions,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainingResult:
    """Train within the budget; with a budget of steps, the same seed makes the same policy.

    Half of the nets start from the pretrained policy's weights, where there is one for the
    observation: they know patterns that a short history lacks. Early stopping picks the weights
    that are best on the held-out part, of the hindsight fit and then of PPO; the scores are those
    of their mixture with the rule. Unless PPO is much better than its start, the weights returned
    come from a refit that includes the held-out part: the newest demand is worth more than early
    stopping. Otherwise they are PPO's best, and the score `of_ppo` is 1. An RLlib checkpoint of
    the weights is written to `checkpoint`, if given. Ray must be running
    (`shared.learning.ppo.ray_session`). Raises `TooLittleHistory`.
    """
    budget = options.budget
    usable = replayable(recorded, parameters)
    training, held_out = hold_out(usable, HELD_OUT, parameters)
    stages = Stages()
    module = _initial_module(parameters, options.seed)
    watch = Watch(BestSoFar(usable.history, parameters, held_out), on_progress)
    updates = 0
    if parameters.reward == "asymmetric":
        updates = _fit(module, training, parameters, options, watch)
        module.set_state(watch.best.state)
    fitted = watch.best.held_out
    stages.done("hindsight")
    until = budget.seconds - stages.seconds["hindsight"]  # leaves as much time for the refit
    with ppo_on(training, parameters, options, module) as ppo:
        stages.done("build")
        while _ppo_goes_on(budget, watch.environment_steps, until - stages.since_start):
            watch.read(ppo.iterate())
            watch.look(module)
        module.set_state(watch.best.state)
        stages.done("ppo")
        best = module_of(parameters, options.seed)
        best.set_state(watch.best.state)
        validated = with_rule(best, rule_expert(training.history, parameters))
        targets = decide(validated, usable.history, parameters, held_out)
        score = evaluate(targets, usable.history, parameters, held_out)
        of_ppo = not updates or not len(held_out) or _much_better(watch.best.held_out, fitted)
        if not of_ppo:
            _refit(module, usable, parameters, options.seed, watch, updates)
        stages.done("refit")
        if checkpoint is not None:
            ppo.save(checkpoint)
            stages.done("checkpoint")
    return TrainingResult(
        module=module,
        environment_steps=watch.environment_steps,
        scores=_scores(watch, score, evaluate_rule(usable.history, parameters, held_out))
        | {"of_ppo": float(of_ppo)},
        stage_seconds=stages.seconds,
        validated=validated,
        rule=rule_expert(usable.history, parameters),
        hindsight_decisions=updates * BATCH * (1 if of_ppo else 2),
    )


def _ppo_goes_on(budget: Budget, steps: int, seconds_left: float) -> bool:
    """Whether PPO iterates again, after so many steps: it does once, whatever the budget."""
    if not steps:
        return True
    return seconds_left > 0 if budget.steps is None else steps < budget.steps


def _initial_module(parameters: FleetParameters, seed: int) -> ResidualModule:
    """An untrained module, half of whose nets are the pretrained policy's where there is one."""
    module = module_of(parameters, seed)
    module.set_state(initialised_from(module.get_state(), pretrained_nets(parameters)))
    return module


def _hindsight(
    module: ResidualModule, recorded: Recorded, parameters: FleetParameters, seed: int
) -> Hindsight:
    """A fit to samples of recorded demand, and of synthetic demand at the same level."""
    spec = SampleSpec.of(parameters)
    samples = samples_of(recorded, spec, parameters, np.random.default_rng(seed))
    level = float(np.median(recorded.history.demands))
    samples = with_synthetic(samples, level, spec, parameters)
    return Hindsight(module, samples, Heads((parameters.over_prov_factor,)), seed)


def _fit(
    module: ResidualModule,
    recorded: Recorded,
    parameters: FleetParameters,
    options: TrainingOptions,
    watch: Watch,
) -> int:
    """Fit by hindsight, evaluated every round on the held-out part. Returns the updates made."""
    began = time.monotonic()
    most, seconds = _limits(options.budget, recorded, parameters)
    hindsight = _hindsight(module, recorded, parameters, options.seed)
    evaluated = module_of(parameters, options.seed)
    updates, part = 0, 0.0
    while part < 1:
        evaluated.set_state(hindsight.round(UPDATES_PER_ROUND, part))
        watch.look(evaluated)
        updates += UPDATES_PER_ROUND
        part = max(updates / most, (time.monotonic() - began) / seconds)
    return updates


def _limits(budget: Budget, recorded: Recorded, parameters: FleetParameters) -> tuple[int, float]:
    """``(most updates, most seconds)`` of the hindsight fit."""
    passes = HINDSIGHT_PASSES * len(decision_rows(recorded, parameters)) // BATCH
    most = max(passes, LEAST_UPDATES)
    if budget.timed:
        return most, min(HINDSIGHT_PART * budget.seconds, HINDSIGHT_SECONDS)
    return min(most, budget.hindsight_updates), inf


def _refit(
    module: ResidualModule,
    recorded: Recorded,
    parameters: FleetParameters,
    seed: int,
    watch: Watch,
    updates: int,
) -> None:
    """Fit the nets again, with nothing held out: as many updates, without early stopping."""
    begun = _initial_module(parameters, seed).get_state()
    nets = {name: value for name, value in begun.items() if name.startswith("nets.")}
    module.set_state({**module.get_state(), **nets})
    hindsight = _hindsight(module, recorded, parameters, seed)
    averaged = module.get_state()
    for done in range(0, updates, UPDATES_PER_ROUND):
        averaged = hindsight.round(UPDATES_PER_ROUND, done / updates)
        watch.tell()
    module.set_state(averaged)


def _much_better(after: HeldOut | None, before: HeldOut | None) -> bool:
    """Whether PPO's held-out reward is so much better that its weights are kept."""
    if after is None or before is None:
        return False
    if before.steps < LEAST_TO_CHOOSE_ON:
        return False
    return after.reward > before.reward + WORTH_KEEPING * abs(before.reward)


def _scores(watch: Watch, held_out: HeldOut | None, rule: HeldOut | None) -> dict[str, float]:
    """Figures for the manifest; the held-out ones are left out when nothing was held out."""
    scores: dict[str, float] = {"environment_steps": watch.environment_steps}
    if watch.mean_reward is not None:
        scores["scaled_mean_reward"] = watch.mean_reward
    if held_out is not None and rule is not None:
        scores |= {
            "held_out_steps": held_out.steps,
            "held_out_cost": held_out.cost,
            "held_out_reward": held_out.reward,
            "held_out_rule_cost": rule.cost,
        }
    return scores
