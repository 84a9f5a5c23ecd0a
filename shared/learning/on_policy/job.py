"""One on-policy training job: what it trains for, and which weights it starts from."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from shared.core.parameters import FleetParameters
from shared.errors import PolicyError, PolicyMissing
from shared.learning.models.checkpoints import LEARNER_GROUP, load_module
from shared.learning.models.network import ResidualModule, module_of
from shared.learning.on_policy.checkpoint_store import WorkingFolder, WorkingState
from shared.policies.store import CHECKPOINT, PolicyStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One training job."""

    fleet: str
    version: str
    """The version that it will publish."""
    parameters: FleetParameters
    gamma: float
    batch_size: int
    """Transitions in one update: the notebook's `train_batch_size`."""
    seconds: float
    """Time after which no update begins: the notebook's `time_total_s`."""
    seed: int
    num_learners: int = 0
    """Ray actors that learn; 0: this process."""


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a job: champion, state and weights."""

    champion: str | None
    state: WorkingState | None
    """After the fleet's newest batch, of whichever job."""
    module: ResidualModule | None
    """Initial weights; None for fresh ones."""
    checkpoint: Path | None
    """The learner group's checkpoint to restore: weights, optimizer, KL coefficient. A verified
    copy, which is removed with the block."""
    unpublished: bool
    """Whether a job was interrupted between an update and its publication."""


@contextmanager
def start_of(job: Job, store: PolicyStore, working: WorkingFolder) -> Iterator[Start]:
    """A job's start: the newest checkpoint if the champion came from it, else the champion."""
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
            yield Start(champion, state, theirs, None, unpublished=False)
        else:
            # Also where the champion has no usable checkpoint.
            yield Start(champion, state, mine, own, unpublished=of_champion and not published)


def _entered(stack: ExitStack, copy: AbstractContextManager[Path], job: Job) -> Path | None:
    """A verified copy of a checkpoint, until the stack ends; None for one that is refused."""
    try:
        return stack.enter_context(copy)
    except PolicyError as error:
        _log_unused(job, error)
        return None


def _fitting(learner_group: Path, job: Job) -> ResidualModule | None:
    """A checkpoint's module with the fleet's present limits; None if its fields are others."""
    try:
        saved = load_module(learner_group)
    except PolicyError as error:
        _log_unused(job, error)
        return None
    module = module_of(job.parameters, job.seed)
    if saved.shape.fields != module.shape.fields:
        return None
    # The weights do not depend on limits or action factor: they are in local units.
    module.set_state(saved.get_state())
    return module


def _log_unused(job: Job, error: PolicyError) -> None:
    """Log a checkpoint that is missing (no error), or that its manifest does not match (one)."""
    if isinstance(error, PolicyMissing):
        _log.info("checkpoint_not_used", fleet=job.fleet, reason=str(error))
    else:
        _log.error("checkpoint_refused", fleet=job.fleet, reason=str(error))
