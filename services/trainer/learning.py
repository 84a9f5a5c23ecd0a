"""Learn a policy from recorded demand: a hindsight start, then RLlib's PPO on replay."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from services.trainer.evaluation import BestSoFar, HeldOut, evaluate_rule
from services.trainer.hindsight import hindsight_start
from services.trainer.module import PolicyShape, ResidualModule
from services.trainer.replay import Segment, highest_action, hold_out, make_replay, replayable
from services.trainer.rllib import (
    DEFAULT_MODULE_ID,
    Algorithm,
    PPOConfig,
    RLModuleSpec,
    register_env,
)
from shared.core.parameters import FleetParameters

HELD_OUT = 0.15
"""Last part of the history that is not learnt from: to stop early, and to be scored."""
HINDSIGHT_PART = 0.3
"""Part of the time for the hindsight start; PPO has the rest."""
HINDSIGHT_SECONDS = 6.0
"""It has settled by then, so a longer job gives the time to PPO."""
NUM_ENVS = 64
"""Replayed fleets in the runner; 64 give 1.4 times the steps a second of 16."""
STEPS_PER_SECOND = 3_500
"""About what PPO replays and learns on one core; the learning rate's schedule is spread by it."""
PROGRESS_SECONDS = 3.0
"""Between two evaluations on the held-out part."""
SMALLEST_UNIT = 0.01
"""Least `PolicyShape.unit`, as a fraction of `action_factor`: for demand that hardly moves."""

_ENVIRONMENT = "autopilot-replay"
_RLLIB_GYM_NAME = "rllib-single-agent-env-v0"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far learning has come; servers per step unless it says otherwise."""

    seconds: float
    environment_steps: int
    mean_reward: float | None
    held_out_cost: float | None


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained module and the figures of its training."""

    module: ResidualModule
    environment_steps: int
    """Steps replayed by PPO."""
    scores: dict[str, float]
    """By name; costs in servers per step."""
    stage_seconds: dict[str, float]


def learn(
    segments: Sequence[Segment],
    parameters: FleetParameters,
    *,
    gamma: float,
    seconds: float,
    seed: int,
    max_steps: int | None = None,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Learnt:
    """Learn for about `seconds`, or until PPO has replayed `max_steps`.

    `segments` are contiguous demands in servers. The weights returned are those that did best on
    the held-out part. An RLlib checkpoint of them is written to `checkpoint`, if given. Ray must
    be running (`services.trainer.warmth`). Raises `TooLittleHistory`.
    """
    usable = replayable(segments, parameters)
    learnt_from, held_out = hold_out(usable, HELD_OUT, parameters)
    if not learnt_from:
        learnt_from, held_out = usable, []
    stages = Stages()
    algorithm = _build(learnt_from, parameters, gamma, seconds, seed)
    try:
        stages.done("build")
        module = _module_of(algorithm)
        best = BestSoFar(held_out, parameters)
        watch = _Watch(best, on_progress)
        if parameters.reward == "asymmetric":
            hindsight_start(
                module,
                learnt_from,
                parameters,
                min(HINDSIGHT_PART * seconds, HINDSIGHT_SECONDS),
                np.random.default_rng(seed),
                watch.look,
            )
            best.consider(module)
            best.restore(module)
            _share_weights(algorithm)
        stages.done("hindsight")
        while stages.since_start < seconds and watch.environment_steps < (max_steps or np.inf):
            watch.read(algorithm.train())
            watch.look(module)
        best.consider(module)
        best.restore(module)
        _share_weights(algorithm)
        stages.done("ppo")
        if checkpoint is not None:
            algorithm.save_to_path(str(checkpoint.absolute()))
            stages.done("checkpoint")
    finally:
        _close(algorithm)
    return Learnt(
        module=module,
        environment_steps=watch.environment_steps,
        scores=_scores(watch, evaluate_rule(held_out, parameters)),
        stage_seconds=stages.seconds,
    )


def build_once(demand: Segment, parameters: FleetParameters) -> None:
    """Build an algorithm and drop it: the first one of a process takes seconds more."""
    _close(_build([demand], parameters, gamma=0.9, seconds=1.0, seed=0))


def unit_of(segments: Sequence[Segment], parameters: FleetParameters) -> float:
    """How far demand moves in a lead time, root mean square, in servers."""
    lead = parameters.lead_steps
    changes = np.concatenate([segment[lead:] - segment[:-lead] for segment in segments])
    moves = float(np.sqrt(np.mean(changes**2)))
    return max(moves, SMALLEST_UNIT * parameters.action_factor)


class Stages:
    """Seconds of each stage of a job, by its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    @property
    def since_start(self) -> float:
        return time.monotonic() - self._began

    def done(self, stage: str) -> None:
        """The stage that began with the one before has ended."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now

    def include(self, others: dict[str, float]) -> None:
        """Stages that were timed elsewhere, up to now."""
        self.seconds |= others
        self._last = time.monotonic()


class _Watch:
    """Looks at the policy every `PROGRESS_SECONDS`: keeps the best, tells how far it has come."""

    def __init__(self, best: BestSoFar, on_progress: Callable[[Progress], None]) -> None:
        self.best = best
        self.environment_steps = 0
        self.mean_reward: float | None = None
        self._tell = on_progress
        self._began = self._looked = time.monotonic()

    def read(self, result: dict[str, Any]) -> None:
        """Take the figures of a training iteration of RLlib."""
        figures = result["env_runners"]
        self.environment_steps = int(figures["num_env_steps_sampled_lifetime"])
        # None until an episode has ended, not a number when none did in this iteration.
        mean = figures.get("episode_return_mean", np.nan) / figures.get("episode_len_mean", np.nan)
        if np.isfinite(mean):
            self.mean_reward = float(mean)

    def look(self, module: ResidualModule) -> None:
        now = time.monotonic()
        if now - self._looked < PROGRESS_SECONDS:
            return
        held_out = self.best.consider(module)
        self._looked = time.monotonic()
        self._tell(
            Progress(
                seconds=round(now - self._began, 3),
                environment_steps=self.environment_steps,
                mean_reward=self.mean_reward,
                held_out_cost=held_out.cost if held_out is not None else None,
            )
        )


def _build(
    segments: Sequence[Segment],
    parameters: FleetParameters,
    gamma: float,
    seconds: float,
    seed: int,
) -> Algorithm:
    """PPO over the replay, in this process: one runner, one learner."""
    unit = unit_of(segments, parameters)
    shape = PolicyShape(
        history_len=parameters.history_len,
        action_factor=parameters.action_factor,
        unit=unit,
        lowest_action=0.0,
        highest_action=highest_action(parameters),
    )
    register_env(_ENVIRONMENT, make_replay)
    # RLlib registers every environment under this name; Gymnasium warns about the second.
    gym.registry.pop(_RLLIB_GYM_NAME, None)
    config = (
        PPOConfig()
        .environment(
            _ENVIRONMENT,
            env_config={
                "segments": list(segments),
                "parameters": parameters,
                # Rewards of about 1: a decision that ignores the future misses by a unit.
                "reward_scale": 1.0 / unit,
            },
            # The module's action is already that of the environment, which clips it itself.
            normalize_actions=False,
            clip_actions=False,
        )
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=NUM_ENVS,
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .learners(num_learners=0)
        .training(
            gamma=gamma,
            # Generalised advantage estimation: an action is paid five steps later, so nearly
            # all of what follows has to reach it.
            lambda_=0.95,
            # Falls over the job: large steps at first, none that unsettle it at the end.
            lr=[[0, 1e-4], [max(int(STEPS_PER_SECOND * seconds), 1), 1e-6]],
            # A batch is 64 steps of 64 fleets, gone through six times in pieces of 512.
            train_batch_size_per_learner=4096,
            minibatch_size=512,
            num_epochs=6,
            # The value's gradient is large at first; unclipped it swamps Adam's averages.
            grad_clip=0.5,
            kl_coeff=0.2,
            # Returns reach -100 when demand jumps; RLlib's 10 would cut off what they teach.
            vf_clip_param=1e4,
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=ResidualModule, model_config={"shape": asdict(shape)}
            )
        )
        .debugging(seed=seed)
    )
    return config.build_algo()


def _close(algorithm: Algorithm) -> None:
    """Stop an algorithm, and remove the folder that Ray Tune makes for each."""
    logs = algorithm.logdir
    algorithm.stop()
    shutil.rmtree(logs, ignore_errors=True)


def _module_of(algorithm: Algorithm) -> ResidualModule:
    """The learner's module: the runner's copy can't be trained and is overwritten by it."""
    results = algorithm.learner_group.foreach_learner(
        lambda learner: learner.module[DEFAULT_MODULE_ID].unwrapped()
    )
    module: ResidualModule = next(result.get() for result in results)
    return module


def _share_weights(algorithm: Algorithm) -> None:
    """Give the runner the weights that were put into the learner's module."""
    algorithm.env_runner_group.sync_weights(
        from_worker_or_learner_group=algorithm.learner_group, inference_only=True
    )


def _scores(watch: _Watch, rule: HeldOut | None) -> dict[str, float]:
    """Figures for the manifest; the held-out ones are left out when nothing was held out."""
    scores: dict[str, float] = {"environment_steps": watch.environment_steps}
    if watch.mean_reward is not None:
        scores["scaled_mean_reward"] = watch.mean_reward
    held_out = watch.best.held_out
    if held_out is not None and rule is not None:
        scores |= {
            "held_out_steps": held_out.steps,
            "held_out_cost": held_out.cost,
            "held_out_reward": held_out.reward,
            "held_out_rule_cost": rule.cost,
        }
    return scores
