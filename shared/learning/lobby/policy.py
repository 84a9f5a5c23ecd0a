"""A policy of the lobby's dynamics: nets that forecast, and the rule's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.band_rule import NAMES, BandRule
from shared.core.fields import target_fields
from shared.core.forecasts import Forecasts, ordered
from shared.core.lobby import Ended, Met, act, from_targets, whole
from shared.core.parameters import FleetParameters
from shared.learning.models.quantile_nets import SAMPLE_SPEC, QuantileNets


@dataclass(frozen=True, slots=True)
class LobbyPolicy:
    """What is exported: also a policy over observations, for hosts that know no more than those.

    Of an observation the targets are read as the fleet's state (`from_targets`), and what it does
    not have (lead times seen, forecasts exceeded) as nothing known.
    """

    nets: QuantileNets
    numbers: Mapping[str, float]
    """The rule's, by name."""
    parameters: FleetParameters

    @property
    def experts(self) -> dict[str, float]:
        """Empty: it is one."""
        return {}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's fields."""
        return (*SAMPLE_SPEC.fields, *target_fields(self.parameters.history_len))

    @property
    def lead_steps(self) -> int:
        """Steps ahead that the fields are built for."""
        return SAMPLE_SPEC.lead_steps

    @property
    def reads_targets(self) -> bool:
        """Its actions depend on the targets before."""
        return True

    def quantiles(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """Forecasts by all of the nets, ``(rows, horizons, levels)``."""
        seen = np.asarray(observations, dtype=np.float32)[:, : len(SAMPLE_SPEC.fields)]
        return ordered(self.nets.quantiles(np.ascontiguousarray(seen)).mean(axis=0))

    def actions(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """What is told, as an action, ``(rows, 1)``."""
        last = observations[:, self.fields.index("demand[-1]")].astype(np.float64)
        targets = observations[:, -self.parameters.history_len :].astype(np.float64)
        return told_of(self.quantiles(observations), last, targets, self.numbers, self.parameters)


def told_of(
    quantiles: FloatArray,
    demands: FloatArray,
    targets: FloatArray,
    numbers: Mapping[str, float],
    parameters: FleetParameters,
) -> FloatArray:
    """What the rule tells after one look at a fleet, as an action, ``(rows, 1)``.

    `quantiles` are not calibrated: nothing was met yet. `demands` ``(rows,)`` and `targets`
    ``(rows, history_len)`` are in servers.
    """
    rows = len(demands)
    forecasts = Forecasts.uncalibrated(quantiles, demands)
    state = from_targets(demands, np.nan_to_num(targets, nan=parameters.min_servers))
    nothing = np.zeros(rows)
    met = Met(state, nothing, nothing, nothing, np.full(rows, np.nan))
    every = np.tile([numbers[name] for name in NAMES], (rows, 1))
    rule = BandRule(every, forecasts, float(parameters.history_len))
    _, wanted = rule.decide(rule.begin(), met, Ended(nothing, nothing), np.arange(rows))
    band = whole(wanted, parameters.min_servers, parameters.max_servers)
    told: FloatArray = act(state, band).told[:, np.newaxis] / parameters.action_factor
    return told
