"""The nets: an RLlib module that predicts the change from the last demand."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.core.parameters import FleetParameters
from shared.learning.models.ensemble import LIMIT, Ensemble, TorchFeatures
from shared.learning.models.spaces import action_space, observation_space
from shared.learning.rllib import Columns, RLModuleSpec, TorchRLModule, ValueFunctionAPI

VALUE_HIDDEN = 64
EXPLORATION = 0.15
"""Initial standard deviation of the target, in local units: a few servers.

Exploration has to be small beside the changes of demand, or PPO unlearns its initial weights.
"""


@dataclass(frozen=True, slots=True)
class PolicyShape:
    """The numbers that are built into a policy's graph; servers unless it says otherwise."""

    fields: tuple[str, ...]
    """Names of the observation's fields; see `shared.core.fields`."""
    lead_steps: int
    action_factor: float
    lowest_action: float
    highest_action: float

    @classmethod
    def of(cls, parameters: FleetParameters) -> "PolicyShape":
        """The shape of a fleet's policies; it does not depend on demand, so nets are portable."""
        return cls(
            fields=parameters.observation_fields,
            lead_steps=parameters.lead_steps,
            action_factor=parameters.action_factor,
            lowest_action=0.0,
            highest_action=parameters.highest_action,
        )


class ResidualModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Input: raw observation in servers, NaN where history is too short. Output: a normal.

    The mean action is ``(last demand + local unit * nets(features)) / action_factor``: the nets
    predict the change from the last demand, so untrained nets already request the present demand,
    and exploration is a few servers. The local unit is large where demand is high or volatile, and
    all features are in local units, so that the nets generalise over scales. The optimal action
    does not depend on past targets, so the policy does not read them and its decisions are
    independent of each other; the value function, which predicts rewards, does read them.

    `model_config["shape"]` has the fields of `PolicyShape`.
    """

    def setup(self) -> None:
        self.shape = PolicyShape(**self.model_config["shape"])
        self._features = TorchFeatures(self.shape.fields, self.shape.lead_steps)
        self.layout = self._features.layout
        self.nets = Ensemble(self.layout.size)
        self.value = _mlp(self.layout.size + len(self.layout.targets))
        self.log_std = nn.Parameter(torch.full((1,), math.log(EXPLORATION)))

    def features(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(batch, n)``, the last demand and the local unit ``(batch, 1)`` in servers."""
        return self._features(observation)

    def mean_action(self, observation: Tensor) -> Tensor:
        """Mean of the action before it is clipped, shape ``(batch, 1)``."""
        features, last, unit = self.features(observation)
        return self._action(features, last, unit)

    @property
    def experts(self) -> dict[str, float]:
        """Empty: the module is a single expert, whose action is the mean over its nets."""
        return {}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's fields."""
        return self.shape.fields

    @property
    def lead_steps(self) -> int:
        """Steps from the newest demand to the one that it plans for."""
        return self.shape.lead_steps

    reads_targets = False

    def actions(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Mean actions, clipped to the action space, shape ``(batch, 1)``."""
        with torch.no_grad():
            batch = torch.as_tensor(np.asarray(observations, dtype=np.float32))
            mean = self.mean_action(batch)
            clipped = mean.clamp(self.shape.lowest_action, self.shape.highest_action)
        actions: NDArray[np.float32] = clipped.numpy()
        return actions

    def _forward(self, batch: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        features, last, unit = self.features(batch[Columns.OBS])
        mean = self._action(features, last, unit)
        log_std = self.log_std + torch.log(unit / self.shape.action_factor)
        return {Columns.ACTION_DIST_INPUTS: torch.cat((mean, log_std), dim=-1)}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> Tensor:  # noqa: ARG002
        """Value of each observation, in scaled reward, shape ``(batch,)``."""
        observation = batch[Columns.OBS]
        features, last, unit = self.features(observation)
        targets = (observation[..., list(self.layout.targets)] - last) / unit
        inputs = torch.cat((features, targets.clamp(-LIMIT, LIMIT)), dim=-1)
        values: Tensor = self.value(inputs).squeeze(-1)
        return values

    def _action(self, features: Tensor, last: Tensor, unit: Tensor) -> Tensor:
        change = unit * self.nets(features).mean(dim=0)
        mean: Tensor = (last + change) / self.shape.action_factor
        return mean


def spec_of(parameters: FleetParameters) -> RLModuleSpec:
    """RLlib's specification of a fleet's modules."""
    return RLModuleSpec(
        module_class=ResidualModule,
        observation_space=observation_space(parameters),
        action_space=action_space(parameters),
        model_config={"shape": asdict(PolicyShape.of(parameters))},
    )


def module_of(parameters: FleetParameters, seed: int) -> ResidualModule:
    """An untrained module, which requests the last demand as its target."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: ResidualModule = spec_of(parameters).build()
    return module


def _mlp(inputs: int) -> nn.Sequential:
    """Orthogonal weights, as is usual in PPO."""
    layers: list[nn.Module] = []
    size = inputs
    for width in (VALUE_HIDDEN, VALUE_HIDDEN):
        layers += (_linear(size, width, math.sqrt(2)), nn.Tanh())
        size = width
    return nn.Sequential(*layers, _linear(size, 1, 1.0))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
