"""The state of a fleet's on-policy training, stored so that a crash loses at most one batch.

```
<store>/<fleet>/.on_policy/
  results.jsonl       a line per batch; of two lines for one, after a crash, the later counts
  batch-000012/       after the newest batch; complete, or not there at all
    state.json        `WorkingState`
    manifest.json     `CheckpointManifest`: the digests of all its files
    learner_group/    the RLlib checkpoint: weights, optimiser, KL coefficient
```
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import Field, ValidationError

from shared.learning.models.checkpoints import LEARNER_GROUP
from shared.learning.on_policy.episodes import Episodes
from shared.messages import CheckpointManifest, Count, Label, Message, Utc
from shared.policies.store import PolicyStore
from shared.policies.store_seal import CHECKPOINT_MANIFEST, open_checkpoint, sealed

_FOLDER = ".on_policy"
_STATE = "state.json"
_RESULTS = "results.jsonl"

_log = structlog.get_logger(__name__)


class WorkingState(Message):
    """The progress of a fleet's on-policy training."""

    batches: Annotated[int, Field(ge=1)]
    """Updates since the fleet's first one, over all jobs."""
    transitions: Count
    """Transitions used by all of them."""
    used_up_to: Utc
    """When the newest of these was due."""
    began_from: Label | None
    """The champion when the job began."""
    version: Label
    """The version that the job publishes."""
    episodes: Episodes = Episodes()
    """The newest episodes, of which the metrics are reported."""


class WorkingFolder:
    """The newest checkpoint and the results of a fleet; one writer at a time."""

    def __init__(self, store: PolicyStore, fleet: str) -> None:
        self._files = store.files
        self._key = store.key
        self._folder = f"{fleet}/{_FOLDER}"
        self._files.sweep(self._folder, _STATE)

    def state(self) -> WorkingState | None:
        """The state after the newest batch; None before the first.

        An unreadable one is logged, and the one before it is returned, if it still exists.
        """
        for batch in reversed(self._files.complete(self._folder, _STATE)):
            name = f"{self._folder}/{batch}/{_STATE}"
            try:
                return WorkingState.model_validate_json(self._files.read(name))
            except (OSError, ValidationError) as error:
                _log.error("checkpoint_unreadable", file=name, reason=str(error))
        return None

    @contextmanager
    def checkpoint(self, state: WorkingState) -> Iterator[Path]:
        """A verified copy of the learner group's checkpoint of a state, for the block.

        Raises `PolicyMissing` without a manifest, or `PolicyCorrupt`.
        """
        with open_checkpoint(self._files, self._name(state), self._key) as folder:
            yield folder / LEARNER_GROUP

    def keep(self, state: WorkingState, save: Callable[[Path], None]) -> None:
        """Store a checkpoint, which `save` writes to the given path, and delete older ones."""
        name = self._name(state)
        batches = self._files.complete(self._folder, _STATE)
        older = [f"{self._folder}/{batch}" for batch in batches]
        with self._files.drafting(name) as draft:
            save(draft / LEARNER_GROUP)
            (draft / _STATE).write_text(state.model_dump_json(indent=2))
            sealed(CheckpointManifest(sha256={}), draft, CHECKPOINT_MANIFEST, self._key)
            if name in older:  # with an unreadable state
                older.remove(name)
                self._files.remove(name, _STATE)
            self._files.add(draft, name, _STATE)
        for batch in older:
            self._files.remove(batch, _STATE)

    def report(self, result: dict[str, Any]) -> None:
        """Append a line to the results."""
        line = json.dumps(result, default=_written) + "\n"
        self._files.change(
            f"{self._folder}/{_RESULTS}", lambda before: (before or b"") + line.encode()
        )

    def _name(self, state: WorkingState) -> str:
        return f"{self._folder}/batch-{state.batches:06}"


def _written(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
