"""A policy of the lobby's dynamics: forecasting nets and the parameters of the band rule."""

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
    """The policy that is exported. It also maps single observations to actions.

    For a single observation, the fleet's state is estimated from the last targets (`from_targets`).
    What an observation does not contain, lead times and misses of forecasts, has its prior value.
    """

    nets: QuantileNets
    numbers: Mapping[str, float]
    """Parameters of the rule, by name."""
    parameters: FleetParameters

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's fields."""
        return (*SAMPLE_SPEC.fields, *target_fields(self.parameters.history_len))

    def quantiles(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """Mean forecast of all nets, ``(rows, horizons, levels)``, in servers."""
        seen = np.asarray(observations, dtype=np.float32)[:, : len(SAMPLE_SPEC.fields)]
        return ordered(self.nets.quantiles(np.ascontiguousarray(seen)).mean(axis=0))

    def actions(self, observations: NDArray[np.floating[Any]]) -> FloatArray:
        """Recommended targets as actions, ``(rows, 1)``, in units of `action_factor` servers."""
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
    """The rule's recommended targets for single observations, as actions, ``(rows, 1)``.

    `quantiles` ``(rows, horizons, levels)`` are used uncalibrated, since no outcomes are known.
    `demands` ``(rows,)`` and `targets` ``(rows, history_len)``, the last targets, are in servers.
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
