"""The lobby's dynamics: players wait, busy servers stay, servers take a varying time to start.

Every function works on many fleets at once (*lanes*, shape ``(lanes,)``); the live worker and the
simulator run these lines. A step, in this order:

1. starting servers come up, or fail at the end of their start;
2. matches end: ``keep`` of the busy servers go on;
3. a part of the waiting matches leave, lost;
4. new matches join the waiting;
5. waiting matches take free servers;
6. the step is paid for: idle, starting, waiting and lost;
7. the policy answers with a band, and servers are launched or removed (`act`).

Servers (up, starting, launched, removed) are whole; matches (busy, waiting, lost) are fluid, in
servers. Demand is what the players want to run: with enough servers, busy equals it exactly, so it
stays exogenous and recorded demand can be replayed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray

LOST_IN_WAITS = 6.0
"""What a match that leaves unserved costs, in steps of waiting."""
ROUNDING = 1e-9
"""Servers: matches add up to whole numbers but for so much."""
AGES = 64
"""Ages by which starting servers are told apart, in steps; the last column holds all older ones."""


@dataclass(frozen=True, slots=True)
class CostWeights:
    """What a server or a match costs in a step; in idle servers, or in money."""

    idle: float = 1.0
    starting: float = 1.0
    waiting: float = 5.0
    lost: float = 30.0
    """Once, when a waiting match leaves."""


@dataclass(frozen=True, slots=True)
class Lobby:
    """The numbers of the lobby's dynamics."""

    step_seconds: float = 65.0
    session_seconds: float = 780.0
    """How long a match runs on average."""
    patience_seconds: float = 1300.0
    """How long players wait on average before they leave."""
    weights: CostWeights = CostWeights()

    @property
    def keep_most(self) -> float:
        """Part of the matches that go on from one step to the next, at most."""
        return 1.0 - 1.0 / max(1.0, self.session_seconds / self.step_seconds)

    @property
    def leaving(self) -> float:
        """Part of the waiting matches that leave in a step."""
        return min(1.0, self.step_seconds / self.patience_seconds)


class LobbyState(NamedTuple):
    """A fleet after a step; servers, shape ``(lanes,)`` unless it says otherwise."""

    demand: FloatArray
    """Of the newest step."""
    up: FloatArray
    busy: FloatArray
    waiting: FloatArray
    """Matches that want a server each."""
    starting: FloatArray
    """By age, ``(lanes, AGES)``: column 0 was launched at the end of this step."""

    @property
    def idle(self) -> FloatArray:
        """Servers that are up and free."""
        return self.up - self.busy

    @property
    def position(self) -> FloatArray:
        """Servers that are up or starting."""
        position: FloatArray = self.up + self.starting.sum(axis=-1)
        return position


class Ended(NamedTuple):
    """Starts that ended in a step, shape ``(lanes,)`` each."""

    came_up: FloatArray
    failed: FloatArray


class Met(NamedTuple):
    """What a step did, until it was paid for; shape ``(lanes,)`` each."""

    state: LobbyState
    arrivals: FloatArray
    """Matches that joined."""
    lost: FloatArray
    """Matches that left without a server."""
    cost: FloatArray
    start_steps: FloatArray
    """Steps from launch to end, mean over the starts that ended; NaN where none did. The oldest
    launch is taken to end first: reports count servers, they do not name them."""


class Band(NamedTuple):
    """What a policy answers with: servers up and starting, shape ``(lanes,)`` each."""

    raise_level: FloatArray
    """Below it the difference is launched."""
    keep_level: FloatArray
    """Above it idle servers are removed; at least the raise level."""


class Acted(NamedTuple):
    """What a band did, in whole servers; shape ``(lanes,)`` each."""

    state: LobbyState
    launched: FloatArray
    removed: FloatArray
    told: FloatArray
    """The number that callers are told: servers up and starting, as they are to be."""


def opening(demand: FloatArray) -> LobbyState:
    """Where a roll-out begins: demand is served, a tenth and one server more are up."""
    demand = np.asarray(demand, dtype=np.float64)
    return LobbyState(
        demand=demand,
        up=np.ceil(1.1 * demand) + 1.0,
        busy=demand,
        waiting=np.zeros_like(demand),
        starting=np.zeros((*demand.shape, AGES)),
    )


def from_targets(demand: FloatArray, targets: FloatArray) -> LobbyState:
    """The state that the notebook's numbers stand for: demand ``(lanes,)``, targets ``(lanes, n)``.

    Targets are oldest first: the oldest is up, later rises above all before are starting.
    """
    highest = np.maximum.accumulate(targets, axis=1)
    starting = np.zeros((len(targets), AGES))
    # The newest target was told one step ago.
    starting[:, 1 : targets.shape[1]] = np.diff(highest, axis=1)[:, ::-1]
    up = targets[:, 0]
    busy = np.minimum(up, demand)
    return LobbyState(demand, up, busy, demand - busy, starting)


def meet(state: LobbyState, demand: FloatArray, ended: Ended, lobby: Lobby) -> Met:
    """Points 1 to 6 of a step: demand arrives, starts end, waiting matches are served."""
    starting, start_steps = _without(_older(state.starting), ended.came_up + ended.failed)
    up = state.up + ended.came_up
    before = state.demand
    most = np.full_like(before, lobby.keep_most)
    keep = np.divide(demand, before, out=most, where=demand < most * before)
    arrivals = np.maximum(demand - keep * before, 0.0)
    running = state.busy * keep
    lost = state.waiting * lobby.leaving
    wanted = running + (state.waiting - lost + arrivals)
    busy = np.minimum(wanted, np.maximum(up, running))
    after = LobbyState(demand, up, busy, wanted - busy, starting)
    weights = lobby.weights
    cost = (
        weights.idle * after.idle
        + weights.starting * starting.sum(axis=-1)
        + weights.waiting * after.waiting
        + weights.lost * lost
    )
    return Met(after, arrivals, lost, cost, start_steps)


def whole(band: Band, least: float, most: float) -> Band:
    """A band in whole servers, rounded up, within a fleet's limits; keep at least raise."""
    low = np.clip(np.ceil(band.raise_level), least, most)
    return Band(low, np.clip(np.maximum(np.ceil(band.keep_level), low), least, most))


def act(state: LobbyState, band: Band) -> Acted:
    """Point 7: below a whole band the difference is launched; above it idle servers are removed.

    At once, but never busy ones, and starting ones can't be cancelled.
    """
    position = state.position
    launched = np.maximum(band.raise_level - position, 0.0)
    excess = np.maximum(position - band.keep_level, 0.0)
    removed = np.minimum(excess, np.floor(state.idle + ROUNDING))
    starting = state.starting.copy()
    starting[..., 0] = launched
    acted = state._replace(up=state.up - removed, starting=starting)
    return Acted(acted, launched, removed, position + launched - removed)


def _older(starting: FloatArray) -> FloatArray:
    """All starting servers a step older."""
    older = np.empty_like(starting)
    older[..., 0] = 0.0
    older[..., 1:] = starting[..., :-1]
    older[..., -1] += starting[..., -1]
    return older


def _without(starting: FloatArray, ended: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Starting servers when the oldest `ended` of them are done, and the mean age of those."""
    if not ended.any():
        return starting, np.full(ended.shape, np.nan)
    # Servers older than each age: what is left of `ended` when that age's turn comes.
    older = np.cumsum(starting[..., ::-1], axis=-1)[..., ::-1] - starting
    done = np.clip(ended[..., np.newaxis] - older, 0.0, starting)
    ages = done @ np.arange(starting.shape[-1], dtype=np.float64)
    mean = np.divide(ages, ended, out=np.full(ended.shape, np.nan), where=ended > 0)
    return starting - done, mean
