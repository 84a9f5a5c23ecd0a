"""Learn a policy from recorded demand: a hindsight start, RLlib's PPO on replay, a last start.

For a trace: ``learn(Recorded.unbroken(History(times, demands, step_seconds)), parameters, ...)``;
then `evaluation.targets_after(learnt.module.decide, history, parameters, rows)` are its decisions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from services.trainer.algorithm import build
from services.trainer.blend import Blend, rule_beside, with_rule
from services.trainer.evaluation import BestSoFar, HeldOut, evaluate, evaluate_rule, targets_of
from services.trainer.general import begun_from, general_nets
from services.trainer.hindsight import BATCH
from services.trainer.module import ResidualModule
from services.trainer.progress import Progress, Stages, Watch
from services.trainer.pupil import Pupil, pupil_of
from services.trainer.replay import Recorded, decision_rows, hold_out, replayable
from services.trainer.rules import ServedRule
from shared.core.parameters import FleetParameters

HELD_OUT = 0.15
"""Last part of the history that is not learnt from: to stop early, and to be scored."""
HINDSIGHT_PART = 0.35
"""Part of the time for the hindsight start, and again for learning from the held-out part."""
HINDSIGHT_SECONDS = 30.0
"""It has settled by then, so a longer job gives the time to PPO."""
HINDSIGHT_UPDATES = 2_000
"""Of the start when it is not timed."""
HINDSIGHT_PASSES = 400
"""Most times that each recorded decision is learnt from: beyond it nets grow sure of the few that a
short history has (on pieces of real traces, 1,000 passes cost up to 14 % more than 400)."""
LEAST_UPDATES = 300
"""Whatever the passes."""
WORTH_KEEPING = 0.03
"""Part of the held-out cost that PPO has to save; less is luck among its many evaluations."""
LEAST_TO_CHOOSE_ON = 500
"""Held-out steps. On fewer, what PPO saves is luck too, and the newest demand is worth more."""
UPDATES_PER_ROUND = 50
"""Between two looks at the clock, and two evaluations on the held-out part."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained module and the figures of its training."""

    module: ResidualModule
    environment_steps: int
    """Steps replayed by PPO."""
    scores: dict[str, float]
    """By name; costs in servers per step."""
    stage_seconds: dict[str, float]
    rule: ServedRule | None = None
    """Answers beside the module, where it sees enough for one."""
    hindsight_decisions: int = 0
    """That hindsight has drawn for each net: recorded, changed and made-up ones."""

    @property
    def policy(self) -> Blend | ResidualModule:
        """What serves."""
        return with_rule(self.module, self.rule)


def learn(
    recorded: Recorded,
    parameters: FleetParameters,
    *,
    gamma: float,
    seconds: float,
    seed: int,
    max_steps: int | None = None,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    num_env_runners: int = 0,
    num_learners: int = 0,
) -> Learnt:
    """Learn for about `seconds`; or, with `max_steps`, a fixed number of updates and PPO's steps.

    Only the latter gives the same policy for the same seed, whatever else the machine does.
    Half of the nets begin as the general policy's, where there is one for the observation: they
    bring what a short history does not show.
    Early stopping picks the best weights on the held-out part, of the hindsight start and then of
    PPO; the scores that are told are theirs, with the rule beside them. Where PPO has not done
    much better than its start, the weights returned are those of a new start that learns from the
    held-out part as well: the newest demand is worth more than the choice of when to stop.
    Otherwise they are PPO's best, and the score `of_ppo` is 1. An RLlib checkpoint of them is
    written to `checkpoint`, if given. Ray must be running (`services.trainer.warmth`). Raises
    `TooLittleHistory`.
    """
    usable = replayable(recorded, parameters)
    learnt_from, held_out = hold_out(usable, HELD_OUT, parameters)
    stages = Stages()
    algorithm = build(learnt_from, parameters, gamma, seconds, seed, num_env_runners, num_learners)
    with pupil_of(algorithm, parameters, seed) as pupil:
        stages.done("build")
        begun = begun_from(pupil.module.get_state(), general_nets(parameters))
        pupil.put(begun)
        watch = Watch(BestSoFar(usable.history, parameters, held_out), on_progress)
        updates = 0
        if parameters.reward == "asymmetric":
            most = _most_updates(learnt_from, parameters)
            if max_steps is None:
                timed = min(HINDSIGHT_PART * seconds, HINDSIGHT_SECONDS)
                updates = _start(pupil, learnt_from, watch, most, timed)
            else:
                updates = _start(pupil, learnt_from, watch, min(most, HINDSIGHT_UPDATES))
        started = watch.best.held_out
        stages.done("hindsight")
        for_ppo = seconds - stages.seconds["hindsight"]
        while (
            stages.since_start < for_ppo or not watch.environment_steps
            if max_steps is None
            else watch.environment_steps < max_steps
        ):
            watch.read(pupil.ppo_iteration())
            watch.look(pupil.module)
        if watch.best.empty:
            watch.look(pupil.module)
        pupil.put(watch.best.state)
        tried = with_rule(pupil.module, rule_beside(learnt_from.history, parameters))
        kept = evaluate(
            targets_of(tried, usable.history, parameters, held_out),
            usable.history,
            parameters,
            held_out,
        )
        stages.done("ppo")
        decisions = updates * BATCH
        of_ppo = not updates or not len(held_out) or _much_better(watch.best.held_out, started)
        if not of_ppo:
            nets = {name: value for name, value in begun.items() if name.startswith("nets.")}
            pupil.put({**watch.best.state, **nets})
            _start_again(pupil, usable, watch, updates)
            decisions += updates * BATCH
        stages.done("refit")
        if checkpoint is not None:
            pupil.save(checkpoint)
            stages.done("checkpoint")
    return Learnt(
        module=pupil.module,
        environment_steps=watch.environment_steps,
        scores=_scores(watch, kept, evaluate_rule(usable.history, parameters, held_out))
        | {"of_ppo": float(of_ppo)},
        stage_seconds=stages.seconds,
        rule=rule_beside(usable.history, parameters),
        hindsight_decisions=decisions,
    )


def _start(pupil: Pupil, recorded: Recorded, watch: Watch, most: int, seconds: float = inf) -> int:
    """The hindsight start, up to its best weights on the held-out part; the updates it took."""
    began = time.monotonic()
    pupil.begin_hindsight(recorded)
    updates, part = 0, 0.0
    while part < 1:
        pupil.hindsight_round(UPDATES_PER_ROUND, part)
        watch.look(pupil.module)
        updates += UPDATES_PER_ROUND
        part = max(updates / most, (time.monotonic() - began) / seconds)
    pupil.put(watch.best.state)
    return updates


def _start_again(pupil: Pupil, recorded: Recorded, watch: Watch, updates: int) -> None:
    """From the weights it has, with nothing held out: so no best, but as many updates."""
    pupil.begin_hindsight(recorded)
    for done in range(0, updates, UPDATES_PER_ROUND):
        pupil.hindsight_round(UPDATES_PER_ROUND, done / updates)
        watch.tell()
    pupil.put(pupil.module.get_state())


def _most_updates(recorded: Recorded, parameters: FleetParameters) -> int:
    """Of the start, whatever time there is."""
    passes = HINDSIGHT_PASSES * len(decision_rows(recorded, parameters)) // BATCH
    return max(passes, LEAST_UPDATES)


def _much_better(after: HeldOut | None, before: HeldOut | None) -> bool:
    """Whether PPO has won so much that it is worth more than the newest demand."""
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
