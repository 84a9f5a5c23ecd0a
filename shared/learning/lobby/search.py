"""Direct policy search: the parameters of the rule with the lowest cost in the simulator.

The cross-entropy method (Rubinstein, 1999). In each round, sample candidates from a normal
distribution, roll all of them out on the same segments of recorded demand and the same lead paths,
and move mean and standard deviation towards those of the best candidates.
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
"""Sampled per round."""
BEST = 8
"""Elite candidates per round."""
SEGMENTS = 16
"""Segments of recorded demand per round, each with its own lead path."""
SEGMENT_STEPS = 400
WARM_UP_STEPS = 30
"""First steps of each segment, not scored, because they depend on its initial state."""
LEAST_ROWS = 100
"""Rows of a series before the first segment: forecasts have too little history there."""
TOWARDS_BEST = 0.7
"""Fraction of the way that mean and standard deviation move to those of the best in a round."""
PLAIN_ROUNDS, ROUNDS = 22, 30
LESS_AROUND = 0.5
"""Factor on the initial spread of the plain rule's parameters when all sixteen are searched."""
HORIZON_TO_LEAD = 3.5
"""Steps by which the plain rule's horizon is shortened when all sixteen are searched; instead,
`horizon_per_lead` starts at half a step per step of lead."""

_LOW = np.array([number.low for number in NUMBERS])
_HIGH = np.array([number.high for number in NUMBERS])
_START = np.array([number.start for number in NUMBERS])
_SPREAD = np.array([number.spread for number in NUMBERS])
_PLAIN = np.arange(len(NUMBERS)) < PLAIN
_UNUSED = np.array([1.0 if name == "keep_horizon" else 0.0 for name in NAMES])


@dataclass(frozen=True, slots=True)
class Simulator:
    """Estimates the cost of policies on recorded demand and sampled lead paths."""

    demands: FloatArray
    """``(rows,)``, servers."""
    leads: Sequence[Kind]
    """Lead processes to sample from; the segments take turns."""
    fleet: LobbyFleet

    def rule_costs(
        self, forecasts: Forecasts, numbers: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """Mean cost per step of the rule for each candidate, ``(candidates,)``.

        `numbers` ``(candidates, 16)`` are the candidates' parameters. `forecasts` must be out of
        fold: made by models that were not trained on the rows that they forecast.
        """
        lanes = np.repeat(numbers, SEGMENTS, axis=0)
        return self._costs(BandRule(lanes, forecasts, self.fleet.usual_lead), len(numbers), rng)

    def target_costs(
        self, targets: FloatArray, times: FloatArray, added: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """The same for an autoscaler's rule with each candidate's margin.

        Its target is ``targets * times + added``: `targets` is ``(rows,)``, the others are
        ``(candidates,)``.
        """
        rule = TargetRule(targets, np.repeat(times, SEGMENTS), np.repeat(added, SEGMENTS))
        return self._costs(rule, len(times), rng)

    def _costs(
        self, policy: BandPolicy[M], candidates: int, rng: np.random.Generator
    ) -> FloatArray:
        """Costs of candidates whose `SEGMENTS` lanes are contiguous; all get the same segments."""
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
    """Budget of a search: a number of rounds, or a deadline `until` on `time.monotonic`."""

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
    """Search the plain rule's five parameters; returns all, the others unused, shape ``(16,)``.

    `tell` is called with the completed fraction.
    """
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
    """Search all sixteen parameters, starting from the plain rule's; returns shape ``(16,)``.

    `tell` is called with the completed fraction.
    """
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
