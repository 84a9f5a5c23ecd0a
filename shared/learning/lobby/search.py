"""Direct policy search: the rule's numbers that cost least in the simulator.

The cross-entropy method (Rubinstein, 1999): draw numbers around a mean, roll each out on the same
segments of recorded demand and the same lead paths, move the mean to the best, search less far.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.band_rule import NAMES, NUMBERS, PLAIN, BandRule, TargetRule
from shared.core.forecasts import Forecasts
from shared.core.lead_process import Kind, Starts, lead_paths
from shared.core.rollout import BandPolicy, LobbyFleet, M, mean_cost, roll_out

CANDIDATES = 40
BEST = 8
SEGMENTS = 16
"""Of recorded demand, each with a lead path of its own."""
SEGMENT_STEPS = 400
WARM_UP_STEPS = 30
"""Of each segment, not scored: they depend on how it was begun."""
LEAST_ROWS = 100
"""Of a series before the first segment: forecasts have little to go by there."""
TOWARDS_BEST = 0.7
"""How far mean and spread move to those of the best in a round."""
PLAIN_ROUNDS, ROUNDS = 22, 30
LESS_AROUND = 0.5
"""Of the plain rule's numbers, when the search of all sixteen begins from them."""
HORIZON_TO_LEAD = 3.5
"""Steps of the plain rule's horizon that become half a step for each step of lead."""

_LOW = np.array([number.low for number in NUMBERS])
_HIGH = np.array([number.high for number in NUMBERS])
_START = np.array([number.start for number in NUMBERS])
_SPREAD = np.array([number.spread for number in NUMBERS])
_PLAIN = np.arange(len(NUMBERS)) < PLAIN
_UNUSED = np.array([1.0 if name == "keep_horizon" else 0.0 for name in NAMES])


@dataclass(frozen=True, slots=True)
class Simulator:
    """Recorded demand, and how servers start."""

    demands: FloatArray
    """``(rows,)``, servers."""
    leads: Sequence[Kind]
    """Lead processes to draw from, one segment after the other."""
    fleet: LobbyFleet

    def rule_costs(
        self, forecasts: Forecasts, numbers: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """Mean cost per step of the rule with each candidate's numbers, ``(candidates, 16)``.

        `forecasts` are made after each row by what has not learnt from the rows to come.
        """
        lanes = np.repeat(numbers, SEGMENTS, axis=0)
        return self._costs(BandRule(lanes, forecasts, self.fleet.usual_lead), len(numbers), rng)

    def target_costs(
        self, targets: FloatArray, times: FloatArray, added: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """The same of an autoscaler's targets, with each candidate's factor and servers added."""
        rule = TargetRule(targets, np.repeat(times, SEGMENTS), np.repeat(added, SEGMENTS))
        return self._costs(rule, len(times), rng)

    def _costs(
        self, policy: BandPolicy[M], candidates: int, rng: np.random.Generator
    ) -> FloatArray:
        """Of candidates that have `SEGMENTS` lanes each, one after the other; all meet the same."""
        rows = len(self.demands)
        first_row = min(LEAST_ROWS, rows // 4)
        steps = min(SEGMENT_STEPS, (rows - first_row) // 2)
        begins = rng.integers(first_row, rows - steps, SEGMENTS)
        kinds = [self.leads[segment % len(self.leads)] for segment in range(SEGMENTS)]
        paths = [lead_paths(kind, 1, steps, rng, self.fleet.usual_lead) for kind in kinds]
        path_of = np.tile(np.arange(SEGMENTS), candidates)
        rolled = roll_out(
            policy,
            self.demands,
            Starts(np.concatenate(paths), path_of, int(rng.integers(2**31))),
            np.tile(begins, candidates),
            steps,
            self.fleet,
        )
        costs = mean_cost(rolled, min(WARM_UP_STEPS, steps // 4))
        by_candidate: FloatArray = costs.reshape(candidates, SEGMENTS).mean(axis=1)
        return by_candidate


@dataclass(frozen=True, slots=True)
class SearchBudget:
    """How long to search: so many rounds, or until a moment of `time.monotonic`."""

    plain_rounds: int = PLAIN_ROUNDS
    rounds: int = ROUNDS
    until: float = inf


def search_plain(
    simulator: Simulator,
    forecasts: Forecasts,
    seed: int,
    budget: SearchBudget,
    tell: Callable[[float], None] = lambda _: None,
) -> FloatArray:
    """The plain rule's five numbers, the others unused; shape ``(16,)``."""
    start = np.where(_PLAIN, _START, _UNUSED)
    spread = np.where(_PLAIN, _SPREAD, 0.0)
    rounds = budget.plain_rounds
    return _search(simulator, forecasts, start, spread, rounds, seed, budget.until, tell)


def search(
    simulator: Simulator,
    forecasts: Forecasts,
    plain: FloatArray,
    seed: int,
    budget: SearchBudget,
    tell: Callable[[float], None] = lambda _: None,
) -> FloatArray:
    """All sixteen numbers, begun from the plain rule's; `tell` hears the part that is done."""
    start = np.where(_PLAIN, plain, _START)
    at = NAMES.index("horizon")
    start[at] = max(plain[at] - HORIZON_TO_LEAD, _LOW[at])
    spread = np.where(_PLAIN, LESS_AROUND, 1.0) * _SPREAD
    return _search(simulator, forecasts, start, spread, budget.rounds, seed, budget.until, tell)


def _search(
    simulator: Simulator,
    forecasts: Forecasts,
    start: FloatArray,
    spread: FloatArray,
    rounds: int,
    seed: int,
    until: float,
    tell: Callable[[float], None],
) -> FloatArray:
    rng = np.random.default_rng(seed)
    mean, around = start.copy(), spread.copy()
    for number in range(rounds):
        if time.monotonic() >= until:
            break
        drawn = mean + around * rng.standard_normal((CANDIDATES, len(mean)))
        drawn[0] = mean
        drawn = np.where(spread > 0, np.clip(drawn, _LOW, _HIGH), drawn)
        best = drawn[np.argsort(simulator.rule_costs(forecasts, drawn, rng))[:BEST]]
        mean += TOWARDS_BEST * (best.mean(axis=0) - mean)
        around += TOWARDS_BEST * (best.std(axis=0) - around)
        tell((number + 1) / rounds)
    return mean
