"""Policies for tests: what one does with a single observation is all that they say."""

from collections.abc import Mapping, Sequence

import numpy as np

from shared.core.fields import notebook_fields
from shared.learning.budget import Budget

LITTLE = Budget(seconds=60.0, steps=1, hindsight_updates=100, batch=512, environments=16)
"""Learning for a second, by counts: the same policy however busy the machine is."""


class OneByOne:
    """A learnt policy that is asked one observation at a time, as if it read its targets."""

    version = "v1"
    learnt = True
    exploration = 0.0
    reads_targets = True
    fields: tuple[str, ...] = notebook_fields(5)
    lead_steps = 6
    experts: Mapping[str, float] = {}

    def answers(self, observation: Sequence[float]) -> tuple[float, ...]:
        """Each expert's action for one observation in servers."""
        raise NotImplementedError

    def actions(self, observations: np.ndarray) -> np.ndarray:
        return np.array([self.answers(observation.tolist()) for observation in observations])


class TenMore(OneByOne):
    """Asks for ten servers above the last demand."""

    def answers(self, observation: Sequence[float]) -> tuple[float, ...]:
        return ((observation[4] + 10) / 100,)


class Everyone:
    """Champions that are one policy, of every fleet."""

    def __init__(self, policy: OneByOne) -> None:
        self._policy = policy

    def policy(self, _fleet: str) -> OneByOne:
        return self._policy
