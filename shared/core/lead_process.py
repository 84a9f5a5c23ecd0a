"""Start-up times of servers: a random process over steps, and a random factor per server.

In a step all starting servers of a fleet make the same progress, ``1 / lead``. The start of a
server ends when its accumulated progress reaches a threshold, sampled at its launch. Samples are a
hash of the lead path's seed, the step of the launch and the server's index within that launch. So
contenders on the same path get the same random numbers (common random numbers), whatever each of
them launches, and the samples do not depend on demand.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray, IntArray
from shared.core.lobby import Ended

LEAST_PROGRESS, MOST_PROGRESS = 0.85, 1.25
"""Bounds of the progress at which a start ends; uniform."""
FAILING = 0.015
"""Fraction of the starts that fail; a failure shows only at the end of the start."""
SHORTEST_LEAD = 0.5
"""Lower bound of the lead, in steps."""
USUAL_LEAD = 5.0
"""Mean lead of the normal regime, in steps; also the notebook's constant lead time."""

Kind = Literal["regimes", "lognormal", "slowdown", "constant"]
KINDS: tuple[Kind, ...] = ("regimes", "lognormal", "slowdown", "constant")

# Three regimes: normal, slow, and spells of very slow starts. Bounds, in steps, of each regime's
# lead and mean duration, which are sampled once per path.
_LEVELS = np.array([[4.0, 6.0], [8.0, 12.0], [15.0, 25.0]])
_STAYS = np.array([[60.0, 200.0], [20.0, 60.0], [15.0, 50.0]])
_NEXT = np.array([[0.0, 0.72, 0.28], [0.75, 0.0, 0.25], [0.7, 0.3, 0.0]])
"""Transition probabilities from regime (row) to regime (column)."""
_VISIT_SPREAD = 0.1
"""Standard deviation of the log of a regime's lead from visit to visit."""
_NOISE = 0.1
"""Standard deviation of the log of the noise in each step."""


def lead_paths(
    kind: Kind, paths: int, steps: int, rng: np.random.Generator, usual: float = USUAL_LEAD
) -> FloatArray:
    """Sample lead paths: leads in steps, ``(paths, steps)``, scaled by ``usual / USUAL_LEAD``.

    The kinds, at the usual lead of 5 steps: `regimes`, a semi-Markov process of normal, slow and
    very slow starts; `lognormal`, an AR(1) process of the log with median 6 to 8, sigma 0.55 and a
    correlation time of 25 steps; `slowdown`, a lead of 4 to 6 steps that becomes 2.5 to 4 times as
    long, permanently, at a time in the middle third; `constant`, 5 steps.
    """
    if kind == "constant":
        return np.full((paths, steps), usual)
    if kind == "regimes":
        leads = _regimes(paths, steps, rng)
    elif kind == "lognormal":
        leads = _lognormal(paths, steps, rng)
    else:
        at = rng.uniform(1 / 3, 2 / 3, (paths, 1)) * steps
        slower = np.where(np.arange(steps) < at, 1.0, rng.uniform(2.5, 4.0, (paths, 1)))
        leads = rng.uniform(4.0, 6.0, (paths, 1)) * slower * _noise(rng, (paths, steps))
    return np.maximum(leads * (usual / USUAL_LEAD), SHORTEST_LEAD)


class Starts:
    """Simulates when launched servers of many lanes come up or fail; a lane follows one path."""

    def __init__(self, leads: FloatArray, path_of: IntArray, seed: int) -> None:
        """`leads`: ``(paths, steps)``; `path_of`: the path of each lane, ``(lanes,)``.

        With the same seed, a server launched on the same
        path, in the same step and with the same index gets the same samples in every lane.
        """
        paths, steps = leads.shape
        self._steps = steps
        self._path_of = path_of
        progress = np.cumsum(1.0 / leads, axis=1)
        self._progress = np.concatenate((np.zeros((paths, 1)), progress), axis=1)
        # The paths are joined into one ascending array, so that one searchsorted serves all lanes.
        self._apart = float(self._progress.max()) + 2 * MOST_PROGRESS
        offsets = self._apart * np.arange(paths)[:, np.newaxis]
        self._joined = (self._progress + offsets).ravel()
        self.path_seeds = _mixed(np.arange(paths, dtype=np.uint64) + _mixed(np.uint64(seed)))
        lanes = len(path_of)
        self._came_up = np.zeros((steps + 2, lanes))
        self._failed = np.zeros((steps + 2, lanes))

    def ended(self, step: int) -> Ended:
        """Starts that end in a step; steps count from 0."""
        return Ended(self._came_up[step], self._failed[step])

    def launch(self, step: int, launched: FloatArray) -> None:
        """Register the whole servers that each lane launches at the end of a step; ``(lanes,)``."""
        lanes = np.flatnonzero(launched)
        if not len(lanes):
            return
        counts = launched[lanes].astype(np.int64)
        lane = np.repeat(lanes, counts)
        number = np.arange(len(lane)) - np.repeat(np.cumsum(counts) - counts, counts)
        path = self._path_of[lane]
        needs, fails = draws(self.path_seeds[path], step, number)
        goal = self._progress[path, step + 1] + needs + self._apart * path
        up_at = np.searchsorted(self._joined, goal) - path * (self._steps + 1) - 1
        up_at = np.minimum(up_at, self._steps + 1)
        at = up_at * self._came_up.shape[1] + lane
        np.add.at(self._failed.reshape(-1), at[fails], 1.0)
        np.add.at(self._came_up.reshape(-1), at[~fails], 1.0)


def draws(
    seeds: NDArray[np.uint64], step: int, numbers: IntArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Returns (progress at which the start ends, whether it fails then) of each server.

    `numbers` are the servers' indices within the launches of the step; all shapes ``(servers,)``.
    """
    key = _mixed(seeds + np.uint64(step))
    key = _mixed(key + numbers.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))
    needs = LEAST_PROGRESS + (MOST_PROGRESS - LEAST_PROGRESS) * _unit(key)
    return needs, _unit(_mixed(key)) < FAILING


def _mixed(key: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """A 64-bit hash (splitmix64's finaliser, Steele, Lea and Flood, 2014)."""
    key = np.asarray(key, dtype=np.uint64)
    with np.errstate(over="ignore"):
        key = key + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(key ^ (key >> np.uint64(31)))


def _unit(key: NDArray[np.uint64]) -> FloatArray:
    """Uniform in [0, 1), from the upper 53 bits of a hash."""
    return (key >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _regimes(paths: int, steps: int, rng: np.random.Generator) -> FloatArray:
    levels = rng.uniform(_LEVELS[:, 0], _LEVELS[:, 1], (paths, 3))
    stays = rng.uniform(_STAYS[:, 0], _STAYS[:, 1], (paths, 3))
    leads = np.empty((paths, steps))
    for path in range(paths):
        at, regime = 0, 0
        at = -int(rng.uniform(0, stays[path, 0]))
        while at < steps:
            stay = 1 + int(rng.exponential(stays[path, regime]))
            level = levels[path, regime] * np.exp(_VISIT_SPREAD * rng.standard_normal())
            leads[path, max(at, 0) : max(at + stay, 0)] = level
            at += stay
            regime = int(rng.choice(3, p=_NEXT[regime]))
    return leads * _noise(rng, (paths, steps))


def _lognormal(paths: int, steps: int, rng: np.random.Generator) -> FloatArray:
    keep = np.exp(-1 / 25.0)
    moves = np.sqrt(1 - keep * keep) * rng.standard_normal((paths, steps))
    logs = np.empty((paths, steps))
    at = rng.standard_normal(paths)
    for step in range(steps):
        at = keep * at + moves[:, step]
        logs[:, step] = at
    median: FloatArray = rng.uniform(6.0, 8.0, (paths, 1))
    return median * np.exp(0.55 * logs)


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    return np.exp(_NOISE * rng.standard_normal(shape))
