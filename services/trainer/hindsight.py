"""A start for PPO in seconds: plain gradient on what each decision turned out to meet.

Demand is exogenous, so for a recorded step the demand that its target will meet is known, and
the gradient of the cost is exact. Source: hindsight or direct-backprop policy optimisation
(Madeka et al., Deep Inventory Management, 2022; Alvo et al., 2023).
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer.module import ResidualModule
from services.trainer.replay import Segment
from shared.core.parameters import FleetParameters

FIRST_LEARNING_RATE = 3e-3
"""Of Adam; ten times less diverges from nothing and is slower, ten times more is unstable."""
LAST_LEARNING_RATE = 1e-4
"""Reached along a half cosine at the end, so that the last weights have settled."""
BATCH = 512
"""Decisions in one gradient."""
UPDATES_PER_ROUND = 20
"""Gradients between two looks at what the policy's own targets have become.

Rarer looks lag behind the policy, and a policy that follows its own targets then swings.
"""


def hindsight_start(
    module: ResidualModule,
    segments: Sequence[Segment],
    parameters: FleetParameters,
    seconds: float,
    rng: np.random.Generator,
    after_round: Callable[[ResidualModule], None],
) -> int:
    """Train the module's mean action for about `seconds`; the number of gradients.

    Minimises ``over + over_prov_factor * under`` in servers, which is the pinball loss at the
    quantile ``over_prov_factor / (1 + over_prov_factor)``. Only for `reward=asymmetric`.
    """
    decisions = _Decisions(segments, parameters)
    optimiser = torch.optim.Adam(module.net.parameters(), lr=FIRST_LEARNING_RATE)
    updates = 0
    began = time.monotonic()
    while (part := (time.monotonic() - began) / seconds) < 1:
        rate = LAST_LEARNING_RATE + (FIRST_LEARNING_RATE - LAST_LEARNING_RATE) * (
            0.5 + 0.5 * math.cos(math.pi * part)
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        decisions.take_targets_of(module)
        for _ in range(UPDATES_PER_ROUND):
            observations, outcomes = decisions.sample(rng)
            # Not clipped: demand is within the limits, so the best target is too, and a clipped
            # one has no gradient.
            targets = module.mean_action(observations) * parameters.action_factor
            surplus = targets - outcomes
            cost = surplus.relu() + parameters.over_prov_factor * (-surplus).relu()
            optimiser.zero_grad()
            (cost.mean() / module.shape.unit).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        updates += UPDATES_PER_ROUND
        after_round(module)
    return updates


class _Decisions:
    """Every decision of the recorded history: what it sees and the demand that it meets."""

    def __init__(self, segments: Sequence[Segment], parameters: FleetParameters) -> None:
        history = parameters.history_len
        self._parameters = parameters
        self._demand = np.concatenate(segments).astype(np.float32)
        self._targets = self._demand.copy()
        self._last_seen = _positions(segments, history - 1, parameters.lead_steps)
        self._window = self._last_seen[:, np.newaxis] + np.arange(1 - history, 1)
        self._outcomes = self._demand[self._last_seen + parameters.lead_steps, np.newaxis]

    def take_targets_of(self, module: ResidualModule) -> None:
        """Let the histories of targets be those that the policy itself would ask for.

        One pass decides from the targets of the pass before; over a few rounds they settle.
        """
        actions = module.decide(self._observations(np.arange(len(self._last_seen))))
        servers = actions[:, 0] * self._parameters.action_factor
        self._targets[self._last_seen + 1] = np.clip(
            servers, self._parameters.min_servers, self._parameters.max_servers
        )

    def sample(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A random batch: observations ``(BATCH, 2 * history_len)``, demands met ``(BATCH, 1)``."""
        which = rng.integers(len(self._last_seen), size=BATCH)
        return torch.from_numpy(self._observations(which)), torch.from_numpy(self._outcomes[which])

    def _observations(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        window = self._window[which]
        return np.concatenate((self._demand[window], self._targets[window]), axis=1)


def _positions(segments: Sequence[Segment], before: int, after: int) -> NDArray[np.int64]:
    """Indices into the concatenated segments that have `before` and `after` steps around them."""
    found = []
    start = 0
    for segment in segments:
        found.append(np.arange(start + before, start + len(segment) - after))
        start += len(segment)
    return np.concatenate(found)
