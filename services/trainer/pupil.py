"""Who learns: RLlib's PPO, and here a copy of its module that always has the newest weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from services.trainer.algorithm import close, copy_of_module, each_learner, put_weights
from services.trainer.decisions import decisions_of
from services.trainer.module import ResidualModule
from services.trainer.rehearsal import with_rehearsal
from services.trainer.replay import Recorded
from services.trainer.rllib import Algorithm
from shared.core.parameters import FleetParameters


class Pupil:
    """Learns by hindsight and by PPO; `module` can be evaluated after each call."""

    def __init__(self, algorithm: Algorithm, parameters: FleetParameters, seed: int) -> None:
        self._algorithm = algorithm
        self._parameters = parameters
        self._seed = seed
        self.module: ResidualModule = copy_of_module(algorithm)

    def put(self, state: Mapping[str, Any]) -> None:
        """Go on from these weights, in the learners, the runner and the copy."""
        put_weights(self._algorithm, state)
        self.module.set_state(state)

    def begin_hindsight(self, recorded: Recorded) -> None:
        """Prepare the rounds: the decisions of recorded demand, and some that are made up."""
        decisions = decisions_of(recorded, self._parameters, np.random.default_rng(self._seed))
        usual = float(np.median(recorded.history.demands))
        decisions = with_rehearsal(decisions, usual, self._parameters)
        price = self._parameters.over_prov_factor
        each_learner(self._algorithm, "begin_hindsight", decisions, price, self._seed)

    def hindsight_round(self, updates: int, part: float) -> None:
        """Make updates; `part` of the start is over, 0 to 1. `put` comes after the last."""
        state = each_learner(self._algorithm, "hindsight_round", updates, part)
        self.module.set_state(state)

    def ppo_iteration(self) -> dict[str, Any]:
        """Replay a batch and learn from it; RLlib's figures of it."""
        result: dict[str, Any] = self._algorithm.train()
        self.module.set_state(each_learner(self._algorithm, "take_state"))
        return result

    def save(self, checkpoint: Path) -> None:
        """Write RLlib's checkpoint."""
        self._algorithm.save_to_path(str(checkpoint.absolute()))


@contextmanager
def pupil_of(algorithm: Algorithm, parameters: FleetParameters, seed: int) -> Iterator[Pupil]:
    """Who learns by an algorithm, which ends with the block."""
    try:
        yield Pupil(algorithm, parameters, seed)
    finally:
        close(algorithm)
