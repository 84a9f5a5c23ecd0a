"""On-policy training, as in the notebook: PPO on the live fleet's own transitions.

The live fleet is the only environment runner, so data is scarce: 128 steps at 65 s take more than
two hours. `learning=replay` learns more from the same demand within seconds; this is for those who
want the notebook's method, or do not trust a replay. The hyperparameters are those of
`get_experiment_config` in the notebook's train_gameserver_ppo.py (RLlib 0.6.5), named below.

The live fleet explores, as the notebook's runner does: the worker samples each action from the
policy's distribution, whose standard deviation is in the artefact, and records the distribution.
So targets fluctuate by a few servers for exploration, and by less as the policy converges.
"""

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from shared.learning.models.checkpoints import LEARNER_GROUP
from shared.learning.models.ensemble import TYPICAL_CHANGE
from shared.learning.models.network import (
    PolicyShape,
    ResidualModule,
    module_of,
    spec_of,
)
from shared.learning.on_policy.checkpoint_store import WorkingFolder, WorkingState
from shared.learning.on_policy.episodes import (
    EpisodeFigures,
    Episodes,
    episodes_of,
    runs_of,
    usable,
)
from shared.learning.on_policy.job import Job, Start, start_of
from shared.learning.progress import Stages
from shared.learning.rllib import DEFAULT_MODULE_ID, LearnerGroup, PPOConfig
from shared.learning.training import TrainingResult
from shared.messages import Transition
from shared.policies.store import PolicyStore
from shared.recorded_demand import TooLittleHistory

MINIBATCH = 32
"""Transitions in one gradient: the notebook's `sgd_minibatch_size`."""
NEWEST_BATCHES = 16
"""Most batches of a job: older transitions come from older policies."""
LEARNT_TRANSITIONS = "learnt_transitions"
"""Score: number of transitions used in all of the fleet's jobs."""

_log = structlog.get_logger(__name__)


def used_up_to(store: PolicyStore, fleet: str) -> datetime | None:
    """When the newest transition that the fleet was trained on was due; None before the first."""
    state = WorkingFolder(store, fleet).state()
    return None if state is None else state.used_up_to


def exploration_of(module: ResidualModule) -> float:
    """Standard deviation of sampled actions: the module's, at a level of `action_factor`."""
    return float(module.log_std.detach().exp()) * TYPICAL_CHANGE


def learn_on_policy(
    transitions: Sequence[Transition],
    job: Job,
    store: PolicyStore,
    checkpoint: Path | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Update the fleet's policy with its unused transitions, oldest first, batch by batch.

    Transitions that do not fill a batch are left to the next job. Training continues from the
    newest checkpoint of the working folder if the present champion came from it, or if an
    interrupted job has left it unpublished; else from the champion's weights; else from fresh ones.
    `checkpoint` is written, if given, for the artefact. Ray must be running. Raises
    `TooLittleHistory` without a full batch, unless an interrupted job left a version to publish.
    """
    stages = Stages()
    working = WorkingFolder(store, job.fleet)
    with start_of(job, store, working) as start:
        since = None if start.state is None else start.state.used_up_to
        unused = [
            transition
            for transition in usable(transitions, job.parameters)
            if since is None or transition.at > since
        ]
        full = len(unused) // job.batch_size
        if not full and not start.unpublished:
            raise TooLittleHistory(
                f"{len(unused)} new live transitions are usable for training and a batch takes "
                f"{job.batch_size}: let the fleet run on, or lower AUTOPILOT_TRAIN_BATCH_SIZE"
            )
        learner = _Learner(job, working, start)
    try:
        stages.done("build")
        for first in range(0, full * job.batch_size, job.batch_size):
            learner.update(unused[first : first + job.batch_size])
            after_batch()
            if stages.since_start >= job.seconds:
                break
        stages.done("ppo")
        if checkpoint is not None:
            learner.save(checkpoint / LEARNER_GROUP)
            stages.done("checkpoint")
        return TrainingResult(
            module=learner.module,
            environment_steps=learner.learnt_transitions,
            scores=learner.scores,
            stage_seconds=stages.seconds,
            validated=learner.module,
        )
    finally:
        learner.close()


class _Learner:
    """PPO's learner group, a module with its present weights, and the training state."""

    def __init__(self, job: Job, working: WorkingFolder, start: Start) -> None:
        self._job = job
        self._working = working
        self._champion = start.champion
        self.state = start.state
        self.learnt_transitions = 0
        """Transitions used in this job."""
        self.scores: dict[str, float] = {} if self.state is None else _counts(self.state)
        module = start.module or module_of(job.parameters, job.seed)
        self.module = module
        self._group = _build(job)
        if start.checkpoint is not None:
            self._group.restore_from_path(str(start.checkpoint.absolute()))
            self._take_weights()
        else:
            self._group.set_weights({DEFAULT_MODULE_ID: module.get_state()})

    def update(self, transitions: Sequence[Transition]) -> None:
        """Process one batch: update, store the checkpoint, report the metrics."""
        job = self._job
        began = time.monotonic()
        episodes = episodes_of(runs_of(transitions), self.module, _reward_scale(self.module.shape))
        config = self._group.config
        # A learner group takes these from the call, not from its configuration.
        results = self._group.update(
            episodes=episodes,
            timesteps={},
            num_epochs=config.num_epochs,
            minibatch_size=config.minibatch_size,
            shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
        )
        self._take_weights()
        self.learnt_transitions += len(transitions)
        before = self.state
        self.state = WorkingState(
            batches=1 if before is None else before.batches + 1,
            transitions=len(transitions) + (0 if before is None else before.transitions),
            used_up_to=transitions[-1].at,
            began_from=self._champion,
            version=job.version,
            episodes=(Episodes() if before is None else before.episodes).after(transitions),
        )
        figures = _figures(self.state.episodes.figures(), results)
        self.scores = {**_counts(self.state), **figures}
        self._working.report(
            {
                "fleet": job.fleet,
                "version": job.version,
                "batch": self.state.batches,
                "transitions": len(transitions),
                "from": transitions[0].at,
                "to": transitions[-1].at,
                "seconds": round(time.monotonic() - began, 3),
                **figures,
            }
        )
        self._working.keep(self.state, self.save)
        _log.info(
            "training_batch",
            fleet=job.fleet,
            batch=self.state.batches,
            metrics=metric_text(figures),
        )

    def save(self, folder: Path) -> None:
        """Write the learner group's checkpoint."""
        self._group.save_to_path(str(folder.absolute()))

    def close(self) -> None:
        self._group.shutdown()

    def _take_weights(self) -> None:
        """Copy the learners' weights, which may be in other processes, to `module`."""
        self.module.set_state(self._group.get_weights()[DEFAULT_MODULE_ID])


def _reward_scale(shape: PolicyShape) -> float:
    """Scales rewards to about 1: the error of requesting the last demand is a typical change."""
    return 1.0 / (TYPICAL_CHANGE * shape.action_factor)


def _build(job: Job) -> LearnerGroup:
    """PPO's learner group, without an environment: recorded transitions are the samples."""
    of_learner = math.ceil(job.batch_size / max(job.num_learners, 1))
    spec = spec_of(job.parameters)
    config = (
        PPOConfig()
        .environment(observation_space=spec.observation_space, action_space=spec.action_space)
        .learners(num_learners=job.num_learners)
        .training(
            # The notebook hard-codes 0, with which rewards five steps later can't be learnt, and
            # ignores its own parameter, 0.9. We use the parameter.
            gamma=job.gamma,
            # Generalised advantage estimation: the notebook's `use_gae`, with RLlib's default
            # `lambda` of 1.0: the advantage is the return minus the value.
            use_gae=True,
            lambda_=1.0,
            # The notebook's, constant.
            lr=1e-4,
            # The notebook's: 10 epochs over 128 transitions, in minibatches of 32.
            train_batch_size_per_learner=of_learner,
            minibatch_size=min(MINIBATCH, of_learner),
            num_epochs=10,
            # The notebook's: five times RLlib's default, so that ten epochs on 128 steps keep the
            # policy near the behaviour policy. RLlib adapts it during training.
            kl_coeff=1.0,
            # Defaults of RLlib 0.6.5, as in the notebook.
            clip_param=0.3,
            entropy_coeff=0.0,
            # Not the default of 10, as in the notebook: the squared error of the value starts at
            # about 200 even with scaled rewards, and has no gradient beyond the limit.
            vf_clip_param=1e4,
        )
        .rl_module(rl_module_spec=spec)
        .debugging(seed=job.seed)
    )
    return config.build_learner_group()


def _counts(state: WorkingState) -> dict[str, float]:
    return {"batches": state.batches, LEARNT_TRANSITIONS: state.transitions}


def _figures(episodes: EpisodeFigures, results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics in the notebook's `metric_definitions`; losses are means over the learners."""

    def loss(name: str) -> float:
        # RLlib keeps the value of the batch's last gradient.
        return float(np.mean([result[DEFAULT_MODULE_ID][name].peek() for result in results]))

    return {
        "episode_reward_mean": episodes.reward_mean,
        "episode_reward_max": episodes.reward_max,
        "episode_reward_min": episodes.reward_min,
        "episode_len_mean": episodes.len_mean,
        "entropy": loss("entropy"),
        "vf_loss": loss("vf_loss"),
        "policy_loss": loss("policy_loss"),
    }


def metric_text(figures: dict[str, float]) -> str:
    """Metrics in the format of the notebook's `metric_definitions`: ``vf_loss: 0.12, ...``.

    One text field of the log event, since JSON would put a quote between a name and its colon.
    """
    return ", ".join(f"{name}: {value:.6g}" for name, value in figures.items())
