"""What the nets are made of: features of an observation in local units, and an ensemble."""

import math

import torch
from torch import Tensor, nn

from shared.learning.models.features import feature_layout

MEMBERS = 4
"""Nets whose outputs are averaged: an ensemble overfits a short history less than one net."""
HIDDEN = 32
"""Units in each of the two hidden layers of a net; a single net of 64 x 64 overfits sooner."""
LIMIT = 10.0
"""Features are clipped to this many local units."""
TYPICAL_CHANGE = 0.1
"""Typical change of demand over a lead time, as a fraction of its level."""
SMALLEST_UNIT = 0.1
"""Lower bound of the local unit, in servers, for demand that hardly changes or is 0."""


class TorchFeatures:
    """Features of raw observations in servers, NaN where history is too short.

    All are in local units, so that the nets generalise over scales; the local unit is large where
    demand is high or volatile.
    """

    def __init__(self, fields: tuple[str, ...], lead_steps: int) -> None:
        self.layout = feature_layout(fields, lead_steps)
        self._lead_steps = lead_steps

    def __call__(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
        walk = has_move * move * math.sqrt(self._lead_steps) + (1 - has_move) * by_level
        return (0.5 * by_level + 0.5 * walk).clamp(min=SMALLEST_UNIT), level


class Ensemble(nn.Module):
    """Small nets, each with a linear skip connection.

    Maps ``(batch, n)`` to ``(members, batch, outputs)``; with an input ``(members, batch, n)``
    each net has a batch of its own.
    """

    def __init__(self, inputs: int, outputs: int = 1, members: int = MEMBERS) -> None:
        super().__init__()
        self.first = _weights(members, inputs, HIDDEN)
        self.first_bias = nn.Parameter(torch.zeros(members, 1, HIDDEN))
        self.second = _weights(members, HIDDEN, HIDDEN)
        self.second_bias = nn.Parameter(torch.zeros(members, 1, HIDDEN))
        self.last = nn.Parameter(torch.zeros(members, HIDDEN, outputs))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, outputs))
        self.linear = nn.Parameter(torch.zeros(members, inputs, outputs))

    def forward(self, features: Tensor) -> Tensor:
        inputs = (
            features if features.dim() == 3 else features.expand(len(self.first), *features.shape)
        )
        signal = nn.functional.silu(torch.bmm(inputs, self.first) + self.first_bias)
        signal = nn.functional.silu(torch.bmm(signal, self.second) + self.second_bias)
        return torch.bmm(signal, self.last) + self.last_bias + torch.bmm(inputs, self.linear)


def _columns(pairs: tuple[tuple[int, int], ...]) -> tuple[list[int], list[int]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def _weights(members: int, inputs: int, outputs: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(members, inputs, outputs) / math.sqrt(inputs))
