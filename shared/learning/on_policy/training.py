"""Learn as the notebook does: PPO on the transitions that the live fleet has recorded itself.

The fleet is the only runner, so there is nothing to simulate and little to learn from: 128 steps
at 65 s are more than two hours. `learning=replay` gets further with the same demand in seconds;
this is for who wants the notebook's way, or does not trust a replay. Its settings are those of
`get_experiment_config` in the notebook's train_gameserver_ppo.py (RLlib 0.6.5), named below.

The live fleet explores, as the notebook's runner does: its worker draws each action from the
policy's distribution, whose standard deviation the artefact carries, and records what it was
drawn from. So servers come and go by a few for the sake of learning, and by less as it settles.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from shared.core.parameters import FleetParameters
from shared.errors import PolicyError, PolicyMissing
from shared.learning.models.checkpoints import LEARNER_GROUP, load_module
from shared.learning.models.network import (
    USUAL_MOVE,
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
from shared.learning.progress import Stages
from shared.learning.rllib import DEFAULT_MODULE_ID, LearnerGroup, PPOConfig
from shared.learning.training import TrainingResult
from shared.messages import Transition
from shared.policies.store import CHECKPOINT, PolicyStore
from shared.recorded_demand import TooLittleHistory

MINIBATCH = 32
"""Transitions in one gradient: the notebook's `sgd_minibatch_size`."""
NEWEST_BATCHES = 16
"""A job learns from so many batches at most: older transitions tell of older policies."""
LEARNT_TRANSITIONS = "learnt_transitions"
"""Score: how many the fleet has learnt from, in all of its jobs."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What one training job learns for, and from."""

    fleet: str
    version: str
    """What will be published."""
    parameters: FleetParameters
    gamma: float
    batch_size: int
    """Transitions in one update: the notebook's `train_batch_size`."""
    seconds: float
    """No update begins after so long: the notebook's `time_total_s`."""
    seed: int
    num_learners: int = 0
    """Ray actors that learn; 0 learns in this process."""


def used_up_to(store: PolicyStore, fleet: str) -> datetime | None:
    """When the newest transition that the fleet has learnt from was due."""
    state = WorkingFolder(store, fleet).state()
    return None if state is None else state.used_up_to


def exploration_of(module: ResidualModule) -> float:
    """Standard deviation of the drawn action: the module's own, in a usual move of a full fleet."""
    return float(module.log_std.detach().exp()) * USUAL_MOVE


def learn_on_policy(
    transitions: Sequence[Transition],
    job: Job,
    store: PolicyStore,
    checkpoint: Path | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Update the fleet's policy with its unused transitions, oldest first, a batch at a time.

    What does not fill a batch waits for the next job. It goes on from the newest checkpoint of
    the working folder if that led to the present champion, or would have led to the next; else
    from the champion's weights; else from nothing. `checkpoint` is written, if given, for the
    artefact. Ray must be running. Raises `TooLittleHistory` when there is no full batch, unless a
    job that has died left something to publish.
    """
    stages = Stages()
    working = WorkingFolder(store, job.fleet)
    with _start(job, store, working) as start:
        since = None if start.state is None else start.state.used_up_to
        unused = [
            transition
            for transition in usable(transitions, job.parameters)
            if since is None or transition.at > since
        ]
        full = len(unused) // job.batch_size
        if not full and not start.unpublished:
            raise TooLittleHistory(
                f"{len(unused)} new live transitions can be learnt from and a batch is "
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


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a job begins."""

    champion: str | None
    state: WorkingState | None
    """After the fleet's newest batch, whichever job it was of."""
    module: ResidualModule | None
    """Weights to begin with; None for fresh ones."""
    checkpoint: Path | None
    """The learner group's, to restore whole: weights, optimiser, KL coefficient; a checked copy
    that goes with the block."""
    unpublished: bool
    """Whether a job has died between an update and publishing."""


class _Learner:
    """PPO's learner group, the module as it stands, and the count of batches."""

    def __init__(self, job: Job, working: WorkingFolder, start: _Start) -> None:
        self._job = job
        self._working = working
        self._champion = start.champion
        self.state = start.state
        self.learnt_transitions = 0
        """In this job."""
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
        """One batch: learn, store the checkpoint, tell the figures."""
        job = self._job
        began = time.monotonic()
        episodes = episodes_of(runs_of(transitions), self.module, _reward_scale(self.module.shape))
        config = self._group.config
        # A learner group goes by what it is called with, not by its own configuration.
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
        self._working.tell(
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
        """Learners may be other processes: `module` is a copy."""
        self.module.set_state(self._group.get_weights()[DEFAULT_MODULE_ID])


@contextmanager
def _start(job: Job, store: PolicyStore, working: WorkingFolder) -> Iterator[_Start]:
    """The fleet's newest checkpoint if it belongs to the champion, else the champion."""
    pointer = store.champion(job.fleet)
    champion = None if pointer is None else pointer.version
    state = working.state()
    with ExitStack() as fetched:
        own, mine, theirs = None, None, None
        published = of_champion = False
        if state is not None:
            own = _entered(fetched, working.checkpoint(state), job)
            mine = None if own is None else _fitting(own, job)
            published = state.version in store.versions(job.fleet)
            of_champion = champion == (state.version if published else state.began_from)
        if champion is not None and not (mine is not None and of_champion):
            checkpoint = _entered(fetched, store.fetched(job.fleet, champion, CHECKPOINT), job)
            theirs = None if checkpoint is None else _fitting(checkpoint / LEARNER_GROUP, job)
        if mine is None or theirs is not None:
            yield _Start(champion, state, theirs, None, unpublished=False)
        else:
            # Also where the champion has no checkpoint to go on from.
            yield _Start(champion, state, mine, own, unpublished=of_champion and not published)


def _entered(stack: ExitStack, copy: AbstractContextManager[Path], job: Job) -> Path | None:
    """A checked copy of a checkpoint, until the stack ends; None for one that is refused."""
    try:
        return stack.enter_context(copy)
    except PolicyError as error:
        _tell_unused(job, error)
        return None


def _fitting(learner_group: Path, job: Job) -> ResidualModule | None:
    """A checkpoint's module with the fleet's present limits; None if it sees other fields."""
    try:
        saved = load_module(learner_group)
    except PolicyError as error:
        _tell_unused(job, error)
        return None
    module = module_of(job.parameters, job.seed)
    if saved.shape.fields != module.shape.fields:
        return None
    # Nothing in the weights is of the limits or the action factor: they are in local units.
    module.set_state(saved.get_state())
    return module


def _tell_unused(job: Job, error: PolicyError) -> None:
    """One that is not there is no error; one that is not what its manifest says is."""
    if isinstance(error, PolicyMissing):
        _log.info("checkpoint_not_used", fleet=job.fleet, reason=str(error))
    else:
        _log.error("checkpoint_refused", fleet=job.fleet, reason=str(error))


def _reward_scale(shape: PolicyShape) -> float:
    """Makes rewards about 1: a decision that ignores the future misses by a usual move."""
    return 1.0 / (USUAL_MOVE * shape.action_factor)


def _build(job: Job) -> LearnerGroup:
    """PPO's learners, without an environment: the recorded transitions are the samples."""
    of_learner = math.ceil(job.batch_size / max(job.num_learners, 1))
    spec = spec_of(job.parameters)
    config = (
        PPOConfig()
        .environment(observation_space=spec.observation_space, action_space=spec.action_space)
        .learners(num_learners=job.num_learners)
        .training(
            # The notebook writes 0 here, with which nothing that is paid five steps later can be
            # learnt, while its parameter of that name says 0.9 and is ignored. The parameter.
            gamma=job.gamma,
            # Generalised advantage estimation: the notebook's `use_gae`. Its `lambda` is RLlib's
            # 1.0: an advantage is all that was earned from there on, less the value expected.
            use_gae=True,
            lambda_=1.0,
            # The notebook's, constant.
            lr=1e-4,
            # The notebook's 128 in pieces of its 32, gone through its 10 times.
            train_batch_size_per_learner=of_learner,
            minibatch_size=min(MINIBATCH, of_learner),
            num_epochs=10,
            # The notebook's: five times RLlib's own, so that ten epochs on 128 steps don't take
            # the policy far from the one that has acted. RLlib adapts it as it goes.
            kl_coeff=1.0,
            # Of RLlib 0.6.5, which the notebook leaves as they are.
            clip_param=0.3,
            entropy_coeff=0.0,
            # Not RLlib's 10, which the notebook leaves: the squared error of a value begins at
            # some 200 even in scaled rewards, and beyond the limit it has no gradient.
            vf_clip_param=1e4,
        )
        .rl_module(rl_module_spec=spec)
        .debugging(seed=job.seed)
    )
    return config.build_learner_group()


def _counts(state: WorkingState) -> dict[str, float]:
    return {"batches": state.batches, LEARNT_TRANSITIONS: state.transitions}


def _figures(episodes: EpisodeFigures, results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures that the notebook's `metric_definitions` name; losses as mean of the learners."""

    def loss(name: str) -> float:
        # RLlib keeps what the last of the batch's gradients saw.
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
    """Figures as the notebook's `metric_definitions` look for them: ``vf_loss: 0.12, ...``.

    It is one field of the log's event: JSON would put a quote between a name and its colon.
    """
    return ", ".join(f"{name}: {value:.6g}" for name, value in figures.items())
