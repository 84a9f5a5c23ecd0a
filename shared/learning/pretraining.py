"""Make the general policy again: learnt from made-up demand, and from nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shared.core.evaluation import evaluate, evaluate_rule
from shared.core.parameters import FleetParameters
from shared.core.replay import decide
from shared.learning.hindsight.optimizer import Hindsight
from shared.learning.hindsight.samples import Samples, drawn_samples
from shared.learning.hindsight.synthetic import synthetic_history
from shared.learning.models.network import ResidualModule, module_of
from shared.learning.models.pretrained import NETS
from shared.learning.progress import Stages
from shared.learning.training import UPDATES_PER_ROUND, TrainingResult
from shared.recorded_demand import Recorded, decision_rows

SERIES = 300
"""Made-up fleets to learn from; a tenth as many more to score on."""
OF_EACH = 1_000
"""Samples of each, from all over it."""
BEGINNINGS = ((8, 100), (120, 100))
"""And of its first rows, where history hardly reaches: so many rows, so many decisions."""
UPDATES = 8_000
WEIGHT_DECAY = 1e-4
"""There is more to learn from than a fleet has, so less to overfit to."""
MOST_SERVERS = 1e6


def pretraining_parameters(history_len: int) -> FleetParameters:
    """Of a fleet of any size."""
    return FleetParameters(
        min_servers=0.0,
        max_servers=MOST_SERVERS,
        history_len=history_len,
        observation="calendar",
    )


def pretrain(
    history_len: int, seed: int, tell: Callable[[float, str], None] = lambda _, __: None
) -> TrainingResult:
    """Learn from made-up demand; the same from the same seed. `tell` hears the part that is done.

    Scores are mean costs over made-up fleets that it has not learnt from, each scaled to a peak of
    100 servers, beside those of the plain rule.
    """
    parameters = pretraining_parameters(history_len)
    rng = np.random.default_rng(seed)
    stages = Stages()
    decisions = _decisions(parameters, rng, tell)
    stages.done("made up")
    module = module_of(parameters, seed)
    hindsight = Hindsight(module, decisions, parameters.over_prov_factor, seed, WEIGHT_DECAY)
    for done in range(0, UPDATES, UPDATES_PER_ROUND):
        module_state = hindsight.round(UPDATES_PER_ROUND, done / UPDATES)
        tell(done / UPDATES, f"{done:,} of {UPDATES:,} updates")
    module.set_state(module_state)
    stages.done("hindsight")
    return TrainingResult(module, 0, _scores(module, parameters, rng), stages.seconds, module)


def write_nets(module: ResidualModule, folder: Path) -> None:
    """The weights that fleets begin from."""
    weights = {name: value.numpy() for name, value in module.nets.state_dict().items()}
    np.savez(folder / NETS, **weights)


def _decisions(
    parameters: FleetParameters, rng: np.random.Generator, tell: Callable[[float, str], None]
) -> Samples:
    seen, met = [], []
    for number in range(SERIES):
        history = synthetic_history(rng)
        parts = ((len(history.demands), OF_EACH), *BEGINNINGS)
        one_seen, one_met = drawn_samples(history, parameters, rng, parts)
        seen.append(one_seen)
        met.append(one_met)
        tell(0.0, f"{number + 1} of {SERIES} fleets made up")
    outcomes = np.concatenate(met)
    return Samples(np.concatenate(seen), outcomes, len(outcomes))


def _scores(
    module: ResidualModule, parameters: FleetParameters, rng: np.random.Generator
) -> dict[str, float]:
    costs: Sequence[list[float]] = ([], [])
    for _ in range(SERIES // 10):
        history = synthetic_history(rng)
        history = replace(history, demands=history.demands * (100 / history.demands.max()))
        rows = decision_rows(Recorded.unbroken(history), parameters)
        # As it is learnt, before it adapts.
        targets = decide(module, history, parameters, rows, since=len(history.demands))
        both = (
            evaluate(targets, history, parameters, rows),
            evaluate_rule(history, parameters, rows),
        )
        for scored, kept in zip(both, costs, strict=True):
            assert scored is not None, "made-up demand is long enough"
            kept.append(scored.cost)
    return {
        "held_out_cost": float(np.mean(costs[0])),
        "held_out_rule_cost": float(np.mean(costs[1])),
    }
