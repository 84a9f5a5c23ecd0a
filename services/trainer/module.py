"""The net: RLlib's module for a policy that decides how far to go from the last demand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.trainer.rllib import Columns, TorchRLModule, ValueFunctionAPI

HIDDEN = (64, 64)
"""Two layers of 64: enough for ten numbers; wider ones were not better and are slower."""
EXPLORATION = 0.15
"""Initial standard deviation of the target, in units of `PolicyShape.unit`: a few servers.

Where demand moves by 20 servers in a lead time this is 3 servers, exp(-3.5) of a fleet of 100.
Exploration has to be small beside the changes of demand, or PPO unlearns what it started from.
"""


@dataclass(frozen=True, slots=True)
class PolicyShape:
    """The numbers that are built into a policy's graph; servers unless it says otherwise."""

    history_len: int
    action_factor: float
    unit: float
    """Servers that an input difference or an output of 1.0 means."""
    lowest_action: float
    highest_action: float

    @property
    def observation_len(self) -> int:
        """Numbers in an observation: demands, then targets."""
        return 2 * self.history_len


class ResidualModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Raw observation in servers in; normal distribution of the action out.

    The mean action is ``(last demand + unit * net(features)) / action_factor``: the net predicts
    the change from the last demand, so that an untrained one already asks for what is needed now
    and exploration is a few servers. Past targets can't change what is best next, but the policy
    chose them from demands older than it still sees: they are its memory.

    `model_config["shape"]` has the fields of `PolicyShape`.
    """

    def setup(self) -> None:
        self.shape = PolicyShape(**self.model_config["shape"])
        self.net = _mlp(self.shape.observation_len, output_gain=0.01)
        self.value = _mlp(self.shape.observation_len, output_gain=1.0)
        initial_std = EXPLORATION * self.shape.unit / self.shape.action_factor
        self.log_std = nn.Parameter(torch.full((1,), math.log(initial_std)))

    def mean_action(self, observation: Tensor) -> Tensor:
        """Mean of the action before it is clipped, shape ``(batch, 1)``."""
        last = observation[..., self.shape.history_len - 1 : self.shape.history_len]
        change = self.shape.unit * self.net(self._features(observation))
        mean: Tensor = (last + change) / self.shape.action_factor
        return mean

    def decide(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The policy's answer: mean actions within the action's limits, shape ``(batch, 1)``."""
        with torch.no_grad():
            batch = torch.as_tensor(np.asarray(observations, dtype=np.float32))
            mean = self.mean_action(batch)
            clipped = mean.clamp(self.shape.lowest_action, self.shape.highest_action)
        answer: NDArray[np.float32] = clipped.numpy()
        return answer

    def _forward(self, batch: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        mean = self.mean_action(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: torch.cat((mean, self.log_std.expand_as(mean)), dim=-1)}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> Tensor:  # noqa: ARG002
        """Value of each observation, in scaled reward, shape ``(batch,)``."""
        values: Tensor = self.value(self._features(batch[Columns.OBS])).squeeze(-1)
        return values

    def _features(self, observation: Tensor) -> Tensor:
        """Every number as its difference from the last demand, and that demand as a level.

        The last demand's own difference is 0, so the level takes its place. Shape
        ``(batch, 2 * history_len)``.
        """
        at = self.shape.history_len - 1
        last = observation[..., at : at + 1]
        change = (observation - last) / self.shape.unit
        level = last / self.shape.action_factor
        return torch.cat((change[..., :at], level, change[..., at + 1 :]), dim=-1)


def _mlp(inputs: int, output_gain: float) -> nn.Sequential:
    """Orthogonal weights, as is usual in PPO; the last layer's scale is `output_gain`."""
    layers: list[nn.Module] = []
    size = inputs
    for width in HIDDEN:
        layers += (_linear(size, width, math.sqrt(2)), nn.Tanh())
        size = width
    return nn.Sequential(*layers, _linear(size, 1, output_gain))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
