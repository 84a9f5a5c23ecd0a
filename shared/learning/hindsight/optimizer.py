"""Fit the nets by the exact gradient of the cost that each recorded decision turned out to have.

Demand is exogenous, so for a recorded row the demand that its target will meet is known, and
the gradient of the cost is exact. Source: hindsight or direct-backprop policy optimisation
(Madeka et al., Deep Inventory Management, 2022; Alvo et al., 2023).
"""

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.learning.hindsight.samples import Samples
from shared.learning.models.network import MEMBERS, ResidualModule

FIRST_LEARNING_RATE = 2e-3
"""Of AdamW; it falls along half a cosine."""
LAST_LEARNING_RATE = 2e-5
WEIGHT_DECAY = 1e-3
BATCH = 256
"""Samples in one gradient of one net; each net draws its own."""
GRADIENT_CLIP = 1.0
AVERAGING = 0.01
"""Part of the newest weights in the moving average, which is what decides in the end."""
FIRST_AVERAGING = 0.1
FIRST_UPDATES = 100
"""So long the average follows faster, to forget where it began."""
AUGMENTED = 0.2
"""Part of a batch from changed copies of the history."""
# What is hidden from the nets and shaken while they learn, so that they lean on no single number
# and know what to do where history does not reach.
NOISE = 0.05
"""Standard deviation, in local units, falling to 0 with the learning rate."""
DROPPED_FEATURES = 0.1
"""Falling to 0 as well."""
DROPPED_SEASONS = 0.2
DROPPED_CALENDARS = 0.2


class Hindsight:
    """Trains the nets of a module on recorded decisions.

    Minimises ``over + underage_cost * under`` in servers, which is the pinball loss at the
    quantile ``underage_cost / (1 + underage_cost)``.
    """

    def __init__(
        self,
        module: ResidualModule,
        decisions: Samples,
        underage_cost: float,
        seed: int,
        weight_decay: float = WEIGHT_DECAY,
    ) -> None:
        self._module = module
        self._underage_cost = underage_cost
        self._rng = np.random.default_rng(seed)
        self._noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            features, last, unit = module.features(torch.from_numpy(decisions.observations))
        self._features = features
        self._wanted = (torch.from_numpy(decisions.outcomes)[:, None] - last) / unit
        self._weight = unit / unit.mean()
        self._recorded = decisions.recorded
        self._synthetic_share = decisions.synthetic_share
        self._synthetic_from = len(decisions.outcomes) - decisions.synthetic
        self._average = copy.deepcopy(module.nets)
        self._optimiser = torch.optim.AdamW(
            module.nets.parameters(), lr=FIRST_LEARNING_RATE, weight_decay=weight_decay
        )
        self._updates = 0

    def round(self, updates: int, part: float) -> dict[str, NDArray[np.float32]]:
        """Make updates at the learning rate of `part`; the module's state, nets averaged."""
        fall = 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))
        for group in self._optimiser.param_groups:
            group["lr"] = LAST_LEARNING_RATE + (FIRST_LEARNING_RATE - LAST_LEARNING_RATE) * fall
        for _ in range(updates):
            self._update(fall)
        state: dict[str, NDArray[np.float32]] = dict(self._module.get_state())
        averaged = self._average.state_dict().items()
        return state | {f"nets.{name}": value.numpy().copy() for name, value in averaged}

    def _update(self, strength: float) -> None:
        nets = self._module.nets
        which = torch.from_numpy(self._sample())
        missed = nets(self._shaken(self._features[which], strength)) - self._wanted[which]
        cost = missed.relu() + self._underage_cost * (-missed).relu()
        self._optimiser.zero_grad()
        (cost * self._weight[which]).mean().backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), GRADIENT_CLIP)
        self._optimiser.step()
        self._updates += 1
        pace = AVERAGING if self._updates > FIRST_UPDATES else FIRST_AVERAGING
        with torch.no_grad():
            pairs = zip(self._average.parameters(), nets.parameters(), strict=True)
            for average, newest in pairs:
                average.lerp_(newest, pace)

    def _sample(self) -> NDArray[np.int64]:
        """Samples for each net, shape ``(MEMBERS, BATCH)``."""
        size = (MEMBERS, BATCH)
        which = self._rng.integers(self._recorded, size=size)
        total, own = len(self._features), self._synthetic_from
        if own > self._recorded:
            changed = self._rng.integers(self._recorded, own, size=size)
            which = np.where(self._rng.random(size) < AUGMENTED, changed, which)
        if total > own:
            synthetic = self._rng.integers(own, total, size=size)
            which = np.where(self._rng.random(size) < self._synthetic_share, synthetic, which)
        return which

    def _shaken(self, features: Tensor, strength: float) -> Tensor:
        """Features with noise and with some of them hidden, as if history did not reach."""
        plan = self._module.layout
        shape = features.shape
        shaken = features + strength * NOISE * torch.randn(shape, generator=self._noise)
        shaken *= torch.rand(shape, generator=self._noise) >= strength * DROPPED_FEATURES
        hidden = torch.rand((*shape[:-1], 1), generator=self._noise) < DROPPED_SEASONS
        _hide(shaken, plan.seasonal, hidden, 0.0)
        _hide(shaken, plan.seasonal_flags, hidden, 1.0)
        hidden = torch.rand((*shape[:-1], 1), generator=self._noise) < DROPPED_CALENDARS
        _hide(shaken, plan.calendar, hidden, 0.0)
        return shaken


def _hide(features: Tensor, columns: tuple[int, ...], hidden: Tensor, instead: float) -> None:
    if columns:
        part = slice(columns[0], columns[-1] + 1)
        features[..., part] = torch.where(hidden, instead, features[..., part])
