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
from shared.learning.models.features import feature_layout
from shared.learning.models.spaces import action_space, observation_space
from shared.learning.rllib import Columns, RLModuleSpec, TorchRLModule, ValueFunctionAPI

MEMBERS = 4
"""Nets whose outputs are averaged: an ensemble overfits a short history less than one net."""
HIDDEN = 32
"""Units in each of the two hidden layers of a net; a single net of 64 x 64 overfits sooner."""
VALUE_HIDDEN = 64
EXPLORATION = 0.15
"""Initial standard deviation of the target, in local units: a few servers.

Exploration has to be small beside the changes of demand, or PPO unlearns its initial weights.
"""
LIMIT = 10.0
"""Features are clipped to this many local units."""
TYPICAL_CHANGE = 0.1
"""Typical change of demand over a lead time, as a fraction of its level."""
SMALLEST_UNIT = 0.1
"""Lower bound of the local unit, in servers, for demand that hardly changes or is 0."""


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
        self.layout = feature_layout(self.shape.fields, self.shape.lead_steps)
        self.nets = Ensemble(self.layout.size)
        self.value = _mlp(self.layout.size + len(self.layout.targets))
        self.log_std = nn.Parameter(torch.full((1,), math.log(EXPLORATION)))

    def features(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(batch, n)``, the last demand and the local unit ``(batch, 1)`` in servers."""
        plan = self.layout
        there = (observation == observation).to(observation.dtype)
        known = torch.where(observation == observation, observation, 0.0)
        last = known[..., plan.last : plan.last + 1]
        unit, level = self._local_unit(known, there, last)
        of, origin = _columns(plan.differences)
        gaps = (known[..., of] - known[..., origin]) * there[..., of] * there[..., origin] / unit
        spreads = known[..., list(plan.spreads)] / unit
        volatility = torch.log(unit / level.clamp(min=SMALLEST_UNIT))
        field, harmonic = _columns(plan.phases)
        angle = known[..., field] * (2 * math.pi * torch.tensor(harmonic, dtype=torch.float32))
        phases = torch.cat(
            (angle.sin() * there[..., field], angle.cos() * there[..., field]), dim=-1
        )
        flags = 1.0 - there[..., list(plan.flags)]
        clipped = torch.cat((gaps, spreads), dim=-1).clamp(-LIMIT, LIMIT)
        return torch.cat((clipped, volatility, phases, flags), dim=-1), last, unit

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

    def _local_unit(self, known: Tensor, there: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """``(local unit, level)`` in servers: expected change over a lead time, and mean demand."""
        plan = self.layout
        if plan.average is None or plan.spread is None:
            window = known[..., list(plan.window)]
            level = window.mean(dim=-1, keepdim=True)
            changes = window[..., 1:] - window[..., :-1]
            move = changes.square().mean(dim=-1, keepdim=True).sqrt()
            has_move = torch.ones_like(move)
        else:
            averaged, has_move = (there[..., at : at + 1] for at in (plan.average, plan.spread))
            average = known[..., plan.average : plan.average + 1]
            level = averaged * average + (1 - averaged) * last
            move = known[..., plan.spread : plan.spread + 1]
        by_level = TYPICAL_CHANGE * level
        # The change of a random walk grows with the square root of the steps.
        walk = has_move * move * math.sqrt(self.shape.lead_steps) + (1 - has_move) * by_level
        return (0.5 * by_level + 0.5 * walk).clamp(min=SMALLEST_UNIT), level


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


class Ensemble(nn.Module):
    """Small nets, each with a linear skip connection: ``(batch, n)`` to ``(members, batch, 1)``.

    With an input ``(members, batch, n)`` each net has a batch of its own.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = _weights(inputs, HIDDEN)
        self.first_bias = nn.Parameter(torch.zeros(MEMBERS, 1, HIDDEN))
        self.second = _weights(HIDDEN, HIDDEN)
        self.second_bias = nn.Parameter(torch.zeros(MEMBERS, 1, HIDDEN))
        self.last = nn.Parameter(torch.zeros(MEMBERS, HIDDEN, 1))
        self.last_bias = nn.Parameter(torch.zeros(MEMBERS, 1, 1))
        self.linear = nn.Parameter(torch.zeros(MEMBERS, inputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        inputs = features if features.dim() == 3 else features.expand(MEMBERS, *features.shape)
        signal = nn.functional.silu(torch.bmm(inputs, self.first) + self.first_bias)
        signal = nn.functional.silu(torch.bmm(signal, self.second) + self.second_bias)
        return torch.bmm(signal, self.last) + self.last_bias + torch.bmm(inputs, self.linear)


def _columns(pairs: tuple[tuple[int, int], ...]) -> tuple[list[int], list[int]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def _weights(inputs: int, outputs: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(MEMBERS, inputs, outputs) / math.sqrt(inputs))


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
