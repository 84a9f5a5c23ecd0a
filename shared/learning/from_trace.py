"""Train and select a policy on recorded demand alone, for the commands `train` and `backtest`.

Model selection is the platform's, but on the part that training holds out for early stopping: the
platform's gate keeps a further part that training never sees, which a single trace can't spare.
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
"""Kind of a policy that was trained, with or without a rule in its mixture."""


@dataclass(frozen=True, slots=True)
class FromTrace:
    """The training result, the selected policy, and the decision that selected it."""

    trained: TrainingResult
    decision: GateDecision
    policy: Deployed

    @property
    def kind(self) -> str:
        """`learnt`, `general` (the pretrained policy), or the name of the rule."""
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
    """Train on a whole history, one row per step, and select the policy to serve.

    Ray must be running. Raises `TooLittleHistory`.
    """
    recorded = Recorded.unbroken(history)
    trained = train(recorded, parameters, options, checkpoint, on_progress)
    return selected(trained, recorded, parameters)


def selected(
    trained: TrainingResult,
    recorded: Recorded,
    parameters: FleetParameters,
    scoring: Callable[[History, IntArray, FleetParameters], Scorer] = cost_on,
) -> FromTrace:
    """Select the policy to serve; `scoring` makes the scorer of the held-out rows."""
    usable = replayable(recorded, parameters)
    training, rows = hold_out(usable, HELD_OUT, parameters)
    scorer = scoring(usable.history, rows, parameters)
    selection = Selection.of(
        training, usable.history, rows, parameters, scorer, pretrained_module(parameters)
    )
    decision = selection.decide(trained.validated)
    deployed = selection.deployed(decision, trained.policy)
    assert deployed is not None, "no version of a store was a contender"
    return FromTrace(trained, decision, deployed)
