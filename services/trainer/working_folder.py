"""What a fleet's on-policy learning keeps while it runs, so that a crash loses one batch at most.

```
<store>/<fleet>/.on_policy/
  results.jsonl       a line a batch; a batch done again after a crash has two, the later counts
  batch-000012/       after the newest batch, complete or not there at all
    state.json        `WorkingState`
    learner_group/    the RLlib checkpoint: weights, optimiser, KL coefficient
```
"""

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import Field, ValidationError

from services.trainer.checkpoints import LEARNER_GROUP
from shared.messages import Count, Label, Message, Utc
from shared.policy_store import PolicyStore

_FOLDER = ".on_policy"
_STATE = "state.json"
_RESULTS = "results.jsonl"
_PARTIAL = ".partial"

_log = structlog.get_logger(__name__)


class WorkingState(Message):
    """How far a fleet's on-policy learning has come."""

    batches: Annotated[int, Field(ge=1)]
    """Updates since the fleet began; goes on over jobs and crashes."""
    transitions: Count
    """Learnt from in all of them."""
    used_up_to: Utc
    """When the newest of them was due."""
    began_from: Label | None
    """The champion when the job began."""
    version: Label
    """What the job publishes."""


class WorkingFolder:
    """The newest checkpoint and the results of a fleet; one writer at a time."""

    def __init__(self, store: PolicyStore, fleet: str) -> None:
        self._folder = store.path(fleet, _FOLDER)
        self._folder.mkdir(parents=True, exist_ok=True)
        for partial in self._folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(partial, ignore_errors=True)

    def newest(self) -> tuple[WorkingState, Path] | None:
        """State and learner group's checkpoint after the newest batch; None before the first.

        A state that can't be read is logged, and the one before it taken, if it is still there.
        """
        for folder in sorted(self._folder.glob("batch-*"), reverse=True):
            try:
                state = WorkingState.model_validate_json((folder / _STATE).read_bytes())
            except (OSError, ValidationError) as error:
                _log.error("checkpoint_unreadable", folder=str(folder), reason=str(error))
                continue
            return state, folder / LEARNER_GROUP
        return None

    def keep(self, state: WorkingState, save: Callable[[Path], None]) -> None:
        """Store a checkpoint, which `save` writes to the path it is given; older ones go."""
        final = self._folder / f"batch-{state.batches:06}"
        partial = final.with_name(final.name + _PARTIAL)
        partial.mkdir()
        save(partial / LEARNER_GROUP)
        (partial / _STATE).write_text(state.model_dump_json(indent=2))
        older = [folder for folder in self._folder.glob("batch-*") if folder != partial]
        partial.rename(final)
        for folder in older:
            shutil.rmtree(folder, ignore_errors=True)

    def tell(self, result: dict[str, Any]) -> None:
        """Append a line to the results."""
        with (self._folder / _RESULTS).open("a") as results:
            results.write(json.dumps(result, default=_written) + "\n")


def _written(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
