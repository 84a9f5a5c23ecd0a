"""Train the pretrained policy that the package carries, on synthetic demand alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shared.core.evaluation import evaluate, evaluate_rule
from shared.core.parameters import FleetParameters
from shared.core.replay import decide
from shared.learning.hindsight.optimizer import Heads, Hindsight
from shared.learning.hindsight.samples import Samples, SampleSpec, drawn_samples
from shared.learning.hindsight.synthetic import synthetic_history
from shared.learning.models.network import ResidualModule, module_of
from shared.learning.models.pretrained import NETS
from shared.learning.progress import Stages
from shared.learning.threads import use_one_thread
from shared.learning.training import UPDATES_PER_ROUND, TrainingResult
from shared.recorded_demand import Recorded, decision_rows

SERIES = 300
"""Synthetic fleets to train on; a tenth of that number more are scored on."""
OF_EACH = 1_000
"""Samples from each, over its whole length."""
BEGINNINGS = ((8, 100), (120, 100))
"""``(rows, samples)`` from the first rows of each, where there is little history."""
UPDATES = 8_000
WEIGHT_DECAY = 1e-4
"""Less than for a fleet's own training: with more data there is less overfitting."""
MOST_SERVERS = 1e6


def pretraining_parameters(history_len: int) -> FleetParameters:
    """Parameters without limits that matter, for fleets of any size."""
    return FleetParameters(
        min_servers=0.0,
        max_servers=MOST_SERVERS,
        history_len=history_len,
        observation="calendar",
    )


def pretrain(
    history_len: int, seed: int, tell: Callable[[float, str], None] = lambda _, __: None
) -> TrainingResult:
    """Train on synthetic demand; the same seed makes the same policy.

    `tell` is called with the completed fraction and a text. Scores are mean costs, in servers per
    step, on synthetic fleets that were not trained on, each scaled to a peak of 100 servers, and
    those of the rule `trend`.
    """
    parameters = pretraining_parameters(history_len)
    rng = np.random.default_rng(seed)
    use_one_thread()
    stages = Stages()
    decisions = synthetic_decisions(SampleSpec.of(parameters), parameters, rng, tell)
    stages.done("synthetic")
    module = module_of(parameters, seed)
    heads = Heads((parameters.over_prov_factor,))
    hindsight = Hindsight(module, decisions, heads, seed, WEIGHT_DECAY)
    for done in range(0, UPDATES, UPDATES_PER_ROUND):
        module_state = hindsight.round(UPDATES_PER_ROUND, done / UPDATES)
        tell(done / UPDATES, f"{done:,} of {UPDATES:,} updates")
    module.set_state(module_state)
    stages.done("hindsight")
    return TrainingResult(module, 0, _scores(module, parameters, rng), stages.seconds, module)


def write_nets(module: ResidualModule, folder: Path) -> None:
    """Write the nets' weights, from which every fleet's training begins."""
    weights = {name: value.numpy() for name, value in module.nets.state_dict().items()}
    np.savez(folder / NETS, **weights)


def synthetic_decisions(
    spec: SampleSpec,
    parameters: FleetParameters,
    rng: np.random.Generator,
    tell: Callable[[float, str], None],
) -> Samples:
    """Samples of `SERIES` synthetic fleets; `tell` is called after each."""
    seen, met = [], []
    for number in range(SERIES):
        history = synthetic_history(rng)
        parts = ((len(history.demands), OF_EACH), *BEGINNINGS)
        one_seen, one_met = drawn_samples(history, spec, parameters, rng, parts)
        seen.append(one_seen)
        met.append(one_met)
        tell(0.0, f"{number + 1} of {SERIES} synthetic fleets")
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
        # Without online adaptation.
        targets = decide(module, history, parameters, rows, since=len(history.demands))
        both = (
            evaluate(targets, history, parameters, rows),
            evaluate_rule(history, parameters, rows),
        )
        for scored, kept in zip(both, costs, strict=True):
            assert scored is not None, "synthetic demand is long enough"
            kept.append(scored.cost)
    return {
        "held_out_cost": float(np.mean(costs[0])),
        "held_out_rule_cost": float(np.mean(costs[1])),
    }
