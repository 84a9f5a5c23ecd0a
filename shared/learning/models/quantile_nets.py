"""Forecasting nets: quantiles of demand at several horizons, from one observation."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.core.arrays import FloatArray
from shared.core.fields import forecast_fields
from shared.core.forecasts import HORIZONS, LEAD_STEPS, LEVELS
from shared.learning.hindsight.optimizer import Heads
from shared.learning.hindsight.samples import SampleSpec
from shared.learning.models.ensemble import Ensemble, TorchFeatures

FOLDS = 4
"""Contiguous folds of recorded demand; each is left out by some of the nets."""
OF_EACH_FOLD = 2
"""Nets per fold: one initialised with pretrained weights, one at random."""

SAMPLE_SPEC = SampleSpec(forecast_fields(HORIZONS), LEAD_STEPS, HORIZONS)
"""The observation's fields, and the horizons that the nets forecast."""
HEADS = Heads(
    underage_costs=tuple(level / (1.0 - level) for level in LEVELS),
    scales=tuple(math.sqrt(horizon / LEAD_STEPS) for horizon in HORIZONS),
)


class QuantileNets(nn.Module):
    """An ensemble of nets; outputs are quantiles of the change of demand, in scaled local units."""

    def __init__(self, seed: int) -> None:
        """Untrained nets: they forecast the last demand at every horizon and level."""
        super().__init__()
        self._features = TorchFeatures(SAMPLE_SPEC.fields, SAMPLE_SPEC.lead_steps)
        self.layout = self._features.layout
        outputs = len(HORIZONS) * len(LEVELS)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.nets = Ensemble(self.layout.size, outputs, FOLDS * OF_EACH_FOLD)

    def features(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(batch, n)``, the last demand and the local unit ``(batch, 1)`` in servers."""
        return self._features(observation)

    def get_state(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the weights, by name."""
        return {name: value.numpy().copy() for name, value in self.state_dict().items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Load weights by name, as `get_state` returns them."""
        self.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})

    def quantiles(self, observations: NDArray[np.float32]) -> FloatArray:
        """Quantiles in servers for each fold, ``(folds, rows, horizons, levels)``.

        They are averaged over the nets that left out the fold, and may cross (see `ordered`).
        `observations` is ``(rows, fields)``.
        """
        with torch.no_grad():
            features, last, unit = self.features(torch.from_numpy(observations))
            changes = self.nets(features).unflatten(0, (FOLDS, OF_EACH_FOLD)).mean(dim=1)
            changes = changes.unflatten(-1, (len(HORIZONS), len(LEVELS)))
            scaled = unit[..., None] * torch.tensor(HEADS.scales)[:, None]
            servers = last[..., None] + scaled * changes
        quantiles: FloatArray = servers.numpy().astype(np.float64)
        return quantiles
