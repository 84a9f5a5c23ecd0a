"""Train the nets that every fleet's training in the lobby starts from, on synthetic demand."""

from collections.abc import Callable

import numpy as np

from shared.learning.hindsight.optimizer import Hindsight
from shared.learning.lobby.forecasting import UPDATES_PER_ROUND, Weights
from shared.learning.models.quantile_nets import HEADS, SAMPLE_SPEC, QuantileNets
from shared.learning.pretraining import (
    UPDATES,
    WEIGHT_DECAY,
    pretraining_parameters,
    synthetic_decisions,
)
from shared.learning.threads import use_one_thread


def pretrain_nets(
    history_len: int, seed: int, tell: Callable[[float, str], None] = lambda _, __: None
) -> Weights:
    """Train nets on synthetic demand alone; the same seed makes the same nets.

    `tell` is called with the completed fraction and a text.
    """
    use_one_thread()
    rng = np.random.default_rng(seed)
    samples = synthetic_decisions(SAMPLE_SPEC, pretraining_parameters(history_len), rng, tell)
    nets = QuantileNets(seed)
    hindsight = Hindsight(nets, samples, HEADS, seed, WEIGHT_DECAY)
    state = nets.get_state()
    for done in range(0, UPDATES, UPDATES_PER_ROUND):
        state = hindsight.round(UPDATES_PER_ROUND, done / UPDATES)
        tell(done / UPDATES, f"{done:,} of {UPDATES:,} updates")
    return state
