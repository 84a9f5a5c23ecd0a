"""Hindsight optimisation: fit the nets by the exact gradient of the cost of recorded decisions.

Demand is exogenous, so the demand that a recorded row's target meets is known, and so is the
gradient of its cost. Source: hindsight, or direct-backprop, policy optimisation (Madeka et al.,
Deep Inventory Management, 2022; Alvo et al., 2023).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.learning.hindsight.samples import Samples
from shared.learning.models.ensemble import Ensemble
from shared.learning.models.features import FeatureLayout

FIRST_LEARNING_RATE = 2e-3
"""Of AdamW, with cosine decay."""
LAST_LEARNING_RATE = 2e-5
WEIGHT_DECAY = 1e-3
BATCH = 256
"""Samples per gradient and net; each net draws its own."""
GRADIENT_CLIP = 1.0
AVERAGING = 0.01
"""Step of the exponential moving average of the weights, which is the result of the fit."""
FIRST_AVERAGING = 0.1
"""The same during the first `FIRST_UPDATES`, to forget the initial weights."""
FIRST_UPDATES = 100
AUGMENTED = 0.2
"""Fraction of a batch from augmented copies of the history."""
# Noise and dropout on the features, so that the nets do not depend on a single one and learn what
# to do where history is too short for one.
NOISE = 0.05
"""Standard deviation, in local units; decays to 0 with the learning rate."""
DROPPED_FEATURES = 0.1
"""Probability of dropping a feature; decays to 0 as well."""
DROPPED_SEASONS = 0.2
"""Probability of dropping all features of a day and a week ago."""
DROPPED_CALENDARS = 0.2
"""Probability of dropping all phases."""


class EnsembleModule(Protocol):
    """A module whose nets can be trained: features in, an ensemble over them."""

    nets: Ensemble
    layout: FeatureLayout

    def features(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(batch, n)``, the last demand and the local unit ``(batch, 1)`` in servers."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Weights by name."""
        ...


@dataclass(frozen=True, slots=True)
class Heads:
    """What the nets' outputs stand for: at each horizon of the samples, some quantiles of demand.

    An output minimises ``over + underage_cost * under`` in servers, which is the pinball loss at
    the quantile ``underage_cost / (1 + underage_cost)``.
    """

    underage_costs: tuple[float, ...]
    scales: tuple[float, ...] = (1.0,)
    """By horizon: what an output of 1.0 means, in local units."""


class Hindsight:
    """Trains the nets of a module on samples."""

    def __init__(
        self,
        module: EnsembleModule,
        samples: Samples,
        heads: Heads,
        seed: int,
        weight_decay: float = WEIGHT_DECAY,
        left_out: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`left_out`: for each net, the range of recorded samples that it is not trained on.

        Nor on their augmented copies, so that its forecasts of them are out of sample.
        """
        self._module = module
        self._rng = np.random.default_rng(seed)
        self._noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            features, last, unit = module.features(torch.from_numpy(samples.observations))
        self._features = features
        scales = torch.tensor(heads.scales)
        self._labels = (torch.from_numpy(samples.outcomes) - last) / (unit * scales)
        self._weight = unit / unit.mean()
        self._underage_costs = torch.tensor(heads.underage_costs)
        self._recorded = samples.recorded
        self._synthetic_share = samples.synthetic_share
        self._synthetic_from = len(samples.outcomes) - samples.synthetic
        self._left_out = np.array(left_out, dtype=np.int64).reshape(-1, 2)
        self._average = copy.deepcopy(module.nets)
        self._optimiser = torch.optim.AdamW(
            module.nets.parameters(), lr=FIRST_LEARNING_RATE, weight_decay=weight_decay
        )
        self._updates = 0

    def round(self, updates: int, part: float) -> dict[str, NDArray[np.float32]]:
        """Make `updates` at the learning rate for the fraction `part` of the fit, 0 to 1.

        Returns the module's state with the averaged nets.
        """
        decay = 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))
        for group in self._optimiser.param_groups:
            group["lr"] = LAST_LEARNING_RATE + (FIRST_LEARNING_RATE - LAST_LEARNING_RATE) * decay
        for _ in range(updates):
            self._update(decay)
        state: dict[str, NDArray[np.float32]] = dict(self._module.get_state())
        averaged = self._average.state_dict().items()
        return state | {f"nets.{name}": value.numpy().copy() for name, value in averaged}

    def _update(self, strength: float) -> None:
        nets = self._module.nets
        which = torch.from_numpy(self._sample())
        output = nets(self._perturbed(self._features[which], strength))
        cost = self._cost(output, self._labels[which])
        self._optimiser.zero_grad()
        loss: Tensor = (cost * self._weight[which]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(nets.parameters(), GRADIENT_CLIP)
        self._optimiser.step()
        self._updates += 1
        rate = AVERAGING if self._updates > FIRST_UPDATES else FIRST_AVERAGING
        with torch.no_grad():
            pairs = zip(self._average.parameters(), nets.parameters(), strict=True)
            for average, newest in pairs:
                average.lerp_(newest, rate)

    def _cost(self, output: Tensor, labels: Tensor) -> Tensor:
        """By horizon, from ``(members, batch, horizons * levels)``, summed over the levels."""
        costs = self._underage_costs
        error = output.view(*labels.shape, len(costs)) - labels[..., None]
        cost = error.relu() + costs * (-error).relu()
        if len(costs) > 1:  # the pinball loss, so that no level outweighs the others
            cost = cost / (1.0 + costs)
        return cost.sum(dim=-1)

    def _sample(self) -> NDArray[np.int64]:
        """Indices of samples for each net, shape ``(members, BATCH)``."""
        size = (len(self._module.nets.first), BATCH)
        which = self._recorded_samples(size)
        total, own = len(self._features), self._synthetic_from
        if own > self._recorded:
            augmented = self._augmented_samples(size)
            which = np.where(self._rng.random(size) < AUGMENTED, augmented, which)
        if total > own:
            synthetic = self._rng.integers(own, total, size=size)
            which = np.where(self._rng.random(size) < self._synthetic_share, synthetic, which)
        return which

    def _recorded_samples(self, size: tuple[int, int]) -> NDArray[np.int64]:
        if not len(self._left_out):
            return self._rng.integers(self._recorded, size=size)
        begin, end = self._left_out[:, :1], self._left_out[:, 1:]
        drawn = self._rng.integers(self._recorded - (end - begin), size=size)
        return np.where(drawn < begin, drawn, drawn + (end - begin))

    def _augmented_samples(self, size: tuple[int, int]) -> NDArray[np.int64]:
        if not len(self._left_out):
            return self._rng.integers(self._recorded, self._synthetic_from, size=size)
        copies = self._synthetic_from // self._recorded
        copy_of = self._rng.integers(1, copies, size=size)
        return self._recorded_samples(size) + self._recorded * copy_of

    def _perturbed(self, features: Tensor, strength: float) -> Tensor:
        """Features with noise, and with some dropped as where history is too short."""
        plan = self._module.layout
        shape = features.shape
        perturbed = features + strength * NOISE * torch.randn(shape, generator=self._noise)
        perturbed *= torch.rand(shape, generator=self._noise) >= strength * DROPPED_FEATURES
        dropped = torch.rand((*shape[:-1], 1), generator=self._noise) < DROPPED_SEASONS
        _drop(perturbed, plan.seasonal, dropped, 0.0)
        _drop(perturbed, plan.seasonal_flags, dropped, 1.0)
        dropped = torch.rand((*shape[:-1], 1), generator=self._noise) < DROPPED_CALENDARS
        _drop(perturbed, plan.calendar, dropped, 0.0)
        return perturbed


def _drop(features: Tensor, columns: tuple[int, ...], dropped: Tensor, value: float) -> None:
    if columns:
        part = slice(columns[0], columns[-1] + 1)
        features[..., part] = torch.where(dropped, value, features[..., part])
