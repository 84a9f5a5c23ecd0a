"""Direct policy search: the rule's numbers that cost least in the simulator.

The cross-entropy method (Rubinstein, 1999): draw numbers around a mean, roll each out on the same
pieces of recorded demand and the same lead paths, move the mean to the best, look less far around.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.band_rule import NUMBERS, PLAIN, USUAL_LEAD, BandRule
from shared.core.forecasts import Forecasts
from shared.core.lead_process import Kind, Starts, lead_paths
from shared.core.lobby import Lobby
from shared.core.rollout import mean_cost, roll_out

CANDIDATES = 40
BEST = 8
PIECES = 16
"""Of demand, each with a lead path of its own."""
PIECE_STEPS = 400
WARM_UP_STEPS = 30
"""Of each piece, not scored: they hang on how it was begun."""
LEAST_ROWS = 100
"""Of a series before the first piece: forecasts have little to go by there."""
TOWARDS_BEST = 0.7
"""How far mean and spread move to those of the best in a round."""
PLAIN_ROUNDS, ROUNDS = 22, 30

_LOW = np.array([number.low for number in NUMBERS])
_HIGH = np.array([number.high for number in NUMBERS])
_START = np.array([number.start for number in NUMBERS])
_SPREAD = np.array([number.spread for number in NUMBERS])


@dataclass(frozen=True, slots=True)
class Simulator:
    """Recorded demand, forecasts of it, and how servers start."""

    demands: FloatArray
    """``(rows,)``, servers."""
    forecasts: Forecasts
    """Made after each row by something that has not learnt from what comes after."""
    leads: Sequence[Kind]
    """Lead processes to draw from, one piece after the other."""
    lobby: Lobby
    limits: tuple[float, float]
    """Least and most servers."""

    def costs(self, numbers: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Mean cost per step of each candidate ``(candidates, 16)``, all on the same draws."""
        rows = len(self.demands)
        first_row = min(LEAST_ROWS, rows // 4)
        steps = min(PIECE_STEPS, (rows - first_row) // 2)
        begins = rng.integers(first_row, rows - steps, PIECES)
        paths = np.concatenate(
            [
                lead_paths(self.leads[piece % len(self.leads)], 1, steps, rng)
                for piece in range(PIECES)
            ]
        )
        path_of = np.tile(np.arange(PIECES), len(numbers))
        starts = Starts(paths, path_of, int(rng.integers(2**31)))
        rule = BandRule(np.repeat(numbers, PIECES, axis=0), self.forecasts)
        rolled = roll_out(
            rule,
            self.demands,
            starts,
            np.tile(begins, len(numbers)),
            steps,
            self.lobby,
            self.limits,
        )
        costs = mean_cost(rolled, min(WARM_UP_STEPS, steps // 4))
        by_candidate: FloatArray = costs.reshape(len(numbers), PIECES).mean(axis=1)
        return by_candidate


def search_plain(
    simulator: Simulator, seed: int, rounds: int = PLAIN_ROUNDS, until: float = float("inf")
) -> FloatArray:
    """The plain rule's five numbers, the others 0; shape ``(16,)``. `until`: `time.monotonic`."""
    fixed = np.where(np.arange(len(NUMBERS)) < PLAIN, 1.0, 0.0)
    start = np.where(fixed > 0, _START, 0.0)
    start[[number.name for number in NUMBERS].index("keep_horizon")] = 1.0
    return _search(simulator, start, fixed * _SPREAD, rounds, seed, until)


def search(
    simulator: Simulator,
    plain: FloatArray,
    seed: int,
    rounds: int = ROUNDS,
    until: float = float("inf"),
    tell: Callable[[float], None] = lambda _: None,
) -> FloatArray:
    """All sixteen numbers, begun from the plain rule's; `tell` hears the part that is done."""
    start = np.where(np.arange(len(NUMBERS)) < PLAIN, plain, _START)
    start[1] = max(plain[1] - USUAL_LEAD, 1.0)
    spread = np.where(np.arange(len(NUMBERS)) < PLAIN, 0.5, 1.0) * _SPREAD
    return _search(simulator, start, spread, rounds, seed, until, tell)


def _search(
    simulator: Simulator,
    start: FloatArray,
    spread: FloatArray,
    rounds: int,
    seed: int,
    until: float,
    tell: Callable[[float], None] = lambda _: None,
) -> FloatArray:
    rng = np.random.default_rng(seed)
    mean, around = start.copy(), spread.copy()
    for number in range(rounds):
        if time.monotonic() >= until:
            break
        drawn = mean + around * rng.standard_normal((CANDIDATES, len(mean)))
        drawn[0] = mean
        drawn = np.where(spread > 0, np.clip(drawn, _LOW, _HIGH), drawn)
        best = drawn[np.argsort(simulator.costs(drawn, rng))[:BEST]]
        mean += TOWARDS_BEST * (best.mean(axis=0) - mean)
        around += TOWARDS_BEST * (best.std(axis=0) - around)
        tell((number + 1) / rounds)
    return mean
