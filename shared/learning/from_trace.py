"""A policy from recorded demand alone, as `train` and `backtest` make it.

It is selected as the platform selects, but on the part that training has held out: the platform's
gate keeps another part that training never sees, and from a single trace that would be lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.core.arrays import IntArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.budget import TrainingOptions
from shared.learning.models.pretrained import pretrained_module
from shared.learning.progress import Progress
from shared.learning.selection.contenders import Deployed, Selection
from shared.learning.selection.gate import CANDIDATE, GateDecision, Scorer, cost_on
from shared.learning.training import HELD_OUT, TrainingResult, train
from shared.recorded_demand import Recorded, hold_out, replayable

LEARNT = "learnt"
"""Kind of a policy that is the candidate, with or without a rule beside it."""


@dataclass(frozen=True, slots=True)
class FromTrace:
    """What was trained, what serves, and why."""

    learnt: TrainingResult
    decision: GateDecision
    policy: Deployed

    @property
    def kind(self) -> str:
        """`learnt`, `general`, or the rule that serves."""
        return LEARNT if self.decision.winner == CANDIDATE else self.decision.winner

    @property
    def costs(self) -> dict[str, float]:
        """Servers per step on the held-out part, by kind; empty when nothing was held out."""
        return {
            LEARNT if name == CANDIDATE else name: cost
            for name, cost in self.decision.costs.items()
        }


def train_on(
    history: History,
    parameters: FleetParameters,
    options: TrainingOptions,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> FromTrace:
    """Train on all of a history, every row a step, and select what serves; Ray must be running."""
    recorded = Recorded.unbroken(history)
    learnt = train(recorded, parameters, options, checkpoint, on_progress)
    return selected(learnt, recorded, parameters)


def selected(
    learnt: TrainingResult,
    recorded: Recorded,
    parameters: FleetParameters,
    scoring: Callable[[History, IntArray, FleetParameters], Scorer] = cost_on,
) -> FromTrace:
    """What serves after training; `scoring` makes the scorer of the held-out rows."""
    usable = replayable(recorded, parameters)
    training, rows = hold_out(usable, HELD_OUT, parameters)
    scorer = scoring(usable.history, rows, parameters)
    selection = Selection.of(
        training, usable.history, rows, parameters, scorer, pretrained_module(parameters)
    )
    decision = selection.decide(learnt.validated)
    deployed = selection.deployed(decision, learnt.policy)
    assert deployed is not None, "no version of a store was a contender"
    return FromTrace(learnt, decision, deployed)
