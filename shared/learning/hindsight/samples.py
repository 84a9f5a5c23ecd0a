"""Every decision of recorded demand: what it sees and what it turned out to meet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import observations_after
from shared.learning.hindsight.synthetic import launch
from shared.recorded_demand import Recorded, decision_rows

Array32 = NDArray[np.float32]

ROWS_LIMIT = 250_000
"""Samples held at once, changed copies included; 100 MB."""
COPIES = 3
"""Changed copies of the history, while they fit."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What was seen and met, in servers: recorded, then of changed copies, then made up."""

    observations: Array32
    """Shape ``(decisions, fields)``; NaN for targets and where history does not reach."""
    outcomes: Array32
    """Demand met, shape ``(decisions,)``."""
    recorded: int
    """How many are as recorded."""
    synthetic: int = 0
    """How many are; see `shared.learning.hindsight.synthetic_samples`."""
    synthetic_share: float = 0.0
    """Part of a batch that is drawn_samples from them."""


def samples_of(
    recorded: Recorded, parameters: FleetParameters, rng: np.random.Generator
) -> Samples:
    """The decisions of a history and of `COPIES` changed copies of it."""
    rows = decision_rows(recorded, parameters)
    copies = min(COPIES, ROWS_LIMIT // len(rows) - 1)
    histories = [recorded.history]
    histories += [changed(recorded.history, parameters, rng) for _ in range(copies)]
    seen = [
        observations_after(history, parameters.observation_fields, parameters, rows).astype(
            np.float32
        )
        for history in histories
    ]
    met = [
        np.clip(
            history.demands[rows + parameters.lead_steps],
            parameters.min_servers,
            parameters.max_servers,
        ).astype(np.float32)
        for history in histories
    ]
    return Samples(np.concatenate(seen), np.concatenate(met), len(rows))


def drawn_samples(
    history: History,
    parameters: FleetParameters,
    rng: np.random.Generator,
    parts: Sequence[tuple[int, int]],
) -> tuple[Array32, Array32]:
    """Observations and outcomes: for each part, so many of its first so many decisions."""
    rows = decision_rows(Recorded.unbroken(history), parameters)
    rows = np.concatenate([rng.choice(rows[:first], count) for first, count in parts])
    seen = observations_after(history, parameters.observation_fields, parameters, rows).astype(
        np.float32
    )
    return seen, history.demands[rows + parameters.lead_steps].astype(np.float32)


def changed(history: History, parameters: FleetParameters, rng: np.random.Generator) -> History:
    """A copy as another game might have had it: scaled, lifted, noisy, with launches.

    A launch adds up to 1.5 times the usual level within two lead times and fades over 20 to 150
    steps.
    """
    demands = history.demands
    usual = float(np.median(demands))
    steps = len(demands)
    scaled = demands * np.exp(rng.normal(0.0, 0.3)) + usual * rng.uniform(-0.1, 0.3)
    noisy = scaled + rng.normal(0.0, rng.uniform(0.0, 0.5), steps) * _roughness(demands)
    rows = np.arange(steps)
    for at in rng.integers(0, steps, size=1 + steps // 2_000):
        rise, fade = rng.uniform(1.0, 2.0 * parameters.lead_steps), rng.uniform(20.0, 150.0)
        noisy += usual * rng.uniform(0.2, 1.5) * launch(rows, int(at), rise, fade)
    low, high = parameters.min_servers, parameters.max_servers
    return History(history.times, np.clip(noisy, low, high), history.step_seconds)


def _roughness(demands: FloatArray) -> float:
    """How much demand changes from row to row, in servers, whatever a few jumps say."""
    return float(np.median(np.abs(np.diff(demands))))
