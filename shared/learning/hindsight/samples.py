"""Training samples: the observation of each decision on recorded demand, and its outcome."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray, IntArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import observations_after
from shared.learning.hindsight.synthetic import launch
from shared.recorded_demand import Recorded, decision_rows

Array32 = NDArray[np.float32]

ROWS_LIMIT = 250_000
"""Most samples in memory, augmented copies included; 100 MB."""
COPIES = 3
"""Augmented copies of the history, as far as the limit allows."""


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What the nets observe after a row, and the steps ahead that they forecast."""

    fields: tuple[str, ...]
    lead_steps: int
    """The lead time that the fields are built for."""
    horizons: tuple[int, ...]
    """Steps from the newest demand observed to the demands forecast, ascending."""

    @classmethod
    def of(cls, parameters: FleetParameters) -> "SampleSpec":
        """Of a decision in the notebook's dynamics, which meets one demand."""
        lead = parameters.lead_steps
        return cls(parameters.observation_fields, lead, (lead,))

    def rows(self, recorded: Recorded, parameters: FleetParameters) -> IntArray:
        """Rows with a history behind them and all horizons before them, within one run."""
        return decision_rows(recorded, parameters, self.horizons[-1])

    def observations(
        self, history: History, parameters: FleetParameters, rows: IntArray
    ) -> Array32:
        """Observations after rows, ``(rows, fields)``, NaN for targets."""
        seen = observations_after(history, self.fields, parameters, rows, self.lead_steps)
        return seen.astype(np.float32)

    def outcomes(self, history: History, parameters: FleetParameters, rows: IntArray) -> Array32:
        """Demand at the horizons, within the limits, ``(rows, horizons)``."""
        ahead = rows[:, np.newaxis] + np.array(self.horizons)
        return parameters.within_limits(history.demands[ahead]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Samples:
    """Observations and outcomes in servers: recorded ones, then augmented, then synthetic."""

    observations: Array32
    """Shape ``(samples, fields)``; NaN for targets and where history is too short."""
    outcomes: Array32
    """The demand met at each horizon, shape ``(samples, horizons)``."""
    recorded: int
    """Number of recorded samples."""
    synthetic: int = 0
    """Number of synthetic samples; see `shared.learning.hindsight.synthetic_samples`."""
    synthetic_share: float = 0.0
    """Fraction of a batch that is drawn from the synthetic samples."""


def samples_of(
    recorded: Recorded, spec: SampleSpec, parameters: FleetParameters, rng: np.random.Generator
) -> Samples:
    """The samples of a history and of `COPIES` augmented copies of it."""
    rows = spec.rows(recorded, parameters)
    copies = min(COPIES, ROWS_LIMIT // len(rows) - 1)
    histories = [recorded.history]
    histories += [augmented(recorded.history, parameters, rng) for _ in range(copies)]
    return Samples(
        np.concatenate([spec.observations(each, parameters, rows) for each in histories]),
        np.concatenate([spec.outcomes(each, parameters, rows) for each in histories]),
        len(rows),
    )


def drawn_samples(
    history: History,
    spec: SampleSpec,
    parameters: FleetParameters,
    rng: np.random.Generator,
    parts: Sequence[tuple[int, int]],
) -> tuple[Array32, Array32]:
    """Random ``(observations, outcomes)`` of a history, in servers.

    For each ``(first, count)`` in `parts`, `count` of its first `first` decisions.
    """
    rows = spec.rows(Recorded.unbroken(history), parameters)
    rows = np.concatenate([rng.choice(rows[:first], count) for first, count in parts])
    return (
        spec.observations(history, parameters, rows),
        spec.outcomes(history, parameters, rows),
    )


def augmented(history: History, parameters: FleetParameters, rng: np.random.Generator) -> History:
    """An augmented copy: demand scaled and shifted, with noise and launches added.

    A launch adds up to 1.5 times the median demand within two lead times and decays over 20 to 150
    steps.
    """
    demands = history.demands
    median = float(np.median(demands))
    steps = len(demands)
    scaled = demands * np.exp(rng.normal(0.0, 0.3)) + median * rng.uniform(-0.1, 0.3)
    noisy = scaled + rng.normal(0.0, rng.uniform(0.0, 0.5), steps) * _median_change(demands)
    rows = np.arange(steps)
    for at in rng.integers(0, steps, size=1 + steps // 2_000):
        rise, fade = rng.uniform(1.0, 2.0 * parameters.lead_steps), rng.uniform(20.0, 150.0)
        noisy += median * rng.uniform(0.2, 1.5) * launch(rows, int(at), rise, fade)
    return History(history.times, parameters.within_limits(noisy), history.step_seconds)


def _median_change(demands: FloatArray) -> float:
    """Median absolute change of demand from row to row, in servers."""
    return float(np.median(np.abs(np.diff(demands))))
