"""Start-up times of servers: how they vary from step to step, and from server to server.

In a step all starting servers of a fleet make the same progress, ``1 / lead``; a server is up when
it has made a progress of its own, drawn when it is launched. Draws are a hash of a path's seed, the
step of the launch and the server's number in it: so contenders on the same path get the same
draws, whatever they launch, and nothing depends on demand.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.core.arrays import FloatArray, IntArray
from shared.core.lobby import Ended

LEAST_PROGRESS, MOST_PROGRESS = 0.85, 1.25
"""At which a server is up, uniform."""
FAILING = 0.015
"""Part of the starts that fail, at their end."""
SHORTEST_LEAD = 0.5
"""Steps."""
USUAL_LEAD = 5.0
"""Middle of the normal regime, in steps: the notebook's constant."""

Kind = Literal["regimes", "lognormal", "slowdown", "constant"]
KINDS: tuple[Kind, ...] = ("regimes", "lognormal", "slowdown", "constant")

# Regimes: normal, slow, a spell. Levels and mean stays are drawn by path, in steps.
_LEVELS = np.array([[4.0, 6.0], [8.0, 12.0], [15.0, 25.0]])
_STAYS = np.array([[60.0, 200.0], [20.0, 60.0], [15.0, 50.0]])
_NEXT = np.array([[0.0, 0.72, 0.28], [0.75, 0.0, 0.25], [0.7, 0.3, 0.0]])
"""From regime (row) to regime (column)."""
_VISIT_SPREAD = 0.1
"""Of a regime's level from visit to visit, relative."""
_NOISE = 0.1
"""From step to step, relative."""


def lead_paths(
    kind: Kind, paths: int, steps: int, rng: np.random.Generator, usual: float = USUAL_LEAD
) -> FloatArray:
    """Leads in steps, ``(paths, steps)``; longer or shorter in proportion to `usual`.

    `regimes`: spells that persist; `lognormal`: median 6 to 8, sigma 0.55, a memory of 25 steps;
    `slowdown`: a lead of 4 to 6 steps that becomes 2.5 to 4 times as long for good, in the middle
    third; `constant`: 5 steps.
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
    """When launched servers of many lanes come up, or fail; each lane follows one path."""

    def __init__(self, leads: FloatArray, path_of: IntArray, seed: int, first: int = 0) -> None:
        """`leads`: ``(paths, steps)``; `path_of`: each lane's path; `first`: the first step.

        The same seed draws the same for a path's launch of a step, whichever lane launches.
        """
        paths, steps = leads.shape
        self._steps, self._first = steps, first
        self._path_of = path_of
        progress = np.cumsum(1.0 / leads, axis=1)
        self._progress = np.concatenate((np.zeros((paths, 1)), progress), axis=1)
        # One ascending array for all paths, to search in once.
        self._apart = float(self._progress.max()) + 2 * MOST_PROGRESS
        offsets = self._apart * np.arange(paths)[:, np.newaxis]
        self._joined = (self._progress + offsets).ravel()
        self.path_seeds = _mixed(np.arange(paths, dtype=np.uint64) + _mixed(np.uint64(seed)))
        lanes = len(path_of)
        self._came_up = np.zeros((steps + 2, lanes))
        self._failed = np.zeros((steps + 2, lanes))

    def ended(self, step: int) -> Ended:
        """Starts that end in a step, 0 for the first."""
        return Ended(self._came_up[step], self._failed[step])

    def launch(self, step: int, launched: FloatArray) -> None:
        """Whole servers that each lane launches at the end of a step; ``(lanes,)``."""
        lanes = np.flatnonzero(launched)
        if not len(lanes):
            return
        counts = launched[lanes].astype(np.int64)
        lane = np.repeat(lanes, counts)
        number = np.arange(len(lane)) - np.repeat(np.cumsum(counts) - counts, counts)
        path = self._path_of[lane]
        needs, fails = draws(self.path_seeds[path], step + self._first, number)
        goal = self._progress[path, step + 1] + needs + self._apart * path
        up_at = np.searchsorted(self._joined, goal) - path * (self._steps + 1) - 1
        up_at = np.minimum(up_at, self._steps + 1)
        at = up_at * self._came_up.shape[1] + lane
        np.add.at(self._failed.reshape(-1), at[fails], 1.0)
        np.add.at(self._came_up.reshape(-1), at[~fails], 1.0)


def draws(
    seeds: NDArray[np.uint64], step: int, numbers: IntArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Of each server: the progress at which its start ends, and whether it fails then."""
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
    """0 to 1."""
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
