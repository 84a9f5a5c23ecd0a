"""The lobby's dynamics: players queue, busy servers are never removed, start-up times vary.

Every function is vectorised over many independent fleets (*lanes*, shape ``(lanes,)``), so that the
simulator and a live worker can share it. One step, in this order:

1. starting servers come up, or fail at the end of their start;
2. matches end: the fraction ``keep`` of the busy servers stays busy;
3. a fraction of the waiting matches is lost: their players leave;
4. new matches arrive and join the queue;
5. waiting matches are placed on idle servers;
6. the cost of the step is charged: idle and starting servers, waiting and lost matches;
7. the policy returns a band (`Band`), and servers are launched or removed accordingly (`act`).

`meet` does 1 to 6, `act` does 7. Servers (up, starting, launched, removed) are whole numbers;
matches (busy, waiting, lost) are fluid, that is fractional, in units of one server each. Demand is
the number of matches that would run if servers were never short: with enough servers, busy equals
it exactly. So demand is exogenous, and recorded demand can be replayed against any policy.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray

LOST_IN_WAITS = 6.0
"""Cost of a match that is lost, as a multiple of the cost of one step of waiting."""
ROUNDING = 1e-9
"""Tolerance in servers: sums of fluid matches miss whole numbers by at most this much."""
AGES = 64
"""Number of age classes of starting servers, in steps; the last one has all older servers too."""


@dataclass(frozen=True, slots=True)
class CostWeights:
    """Cost of a server or a match per step; the unit is one idle server for a step, or money."""

    idle: float = 1.0
    starting: float = 1.0
    waiting: float = 5.0
    lost: float = 30.0
    """Charged once, in the step in which a waiting match is lost."""


@dataclass(frozen=True, slots=True)
class Lobby:
    """Parameters of the lobby's dynamics."""

    step_seconds: float = 65.0
    session_seconds: float = 780.0
    """Mean duration of a match."""
    patience_seconds: float = 1300.0
    """Mean time that players wait before they leave."""
    weights: CostWeights = CostWeights()

    @property
    def keep_most(self) -> float:
        """Largest fraction of the running matches that continue into the next step.

        Fewer continue if demand falls faster than matches end at this rate (`meet`).
        """
        return 1.0 - 1.0 / max(1.0, self.session_seconds / self.step_seconds)

    @property
    def leaving(self) -> float:
        """Fraction of the waiting matches that is lost in a step."""
        return min(1.0, self.step_seconds / self.patience_seconds)


class LobbyState(NamedTuple):
    """State of the fleets after a step; in servers, shape ``(lanes,)`` unless stated otherwise."""

    demand: FloatArray
    """Demand of the newest step."""
    up: FloatArray
    busy: FloatArray
    waiting: FloatArray
    """Matches in the queue; each needs one server."""
    starting: FloatArray
    """Starting servers by age, ``(lanes, AGES)``: column 0 was launched at the end of this step."""

    @property
    def idle(self) -> FloatArray:
        """Servers that are up and run no match."""
        return self.up - self.busy

    @property
    def position(self) -> FloatArray:
        """Servers that are up or starting: the inventory position."""
        position: FloatArray = self.up + self.starting.sum(axis=-1)
        return position


class Ended(NamedTuple):
    """Numbers of servers whose start ended in a step, shape ``(lanes,)`` each."""

    came_up: FloatArray
    failed: FloatArray


class Met(NamedTuple):
    """Result of `meet`: the step up to and including its cost; shape ``(lanes,)`` each."""

    state: LobbyState
    arrivals: FloatArray
    """New matches."""
    lost: FloatArray
    """Waiting matches whose players left."""
    cost: FloatArray
    start_steps: FloatArray
    """Mean number of steps from launch to the end of the start, over the starts that ended in this
    step; NaN where none did. It assumes that servers end in the order of their launch, because
    supply reports only count servers and do not identify them."""


class Band(NamedTuple):
    """Action of a policy: two order-up-to levels for the position, shape ``(lanes,)`` each."""

    raise_level: FloatArray
    """If the position is below this level, the difference is launched."""
    keep_level: FloatArray
    """If the position is above this level, idle servers are removed; at least the raise level."""


class Acted(NamedTuple):
    """Result of applying a band, in whole servers; shape ``(lanes,)`` each."""

    state: LobbyState
    launched: FloatArray
    removed: FloatArray
    told: FloatArray
    """The recommended target: the position after servers were launched and removed."""


def opening(demand: FloatArray) -> LobbyState:
    """Initial state of a roll-out: all demand is served; a tenth plus one more server are up."""
    demand = np.asarray(demand, dtype=np.float64)
    return LobbyState(
        demand=demand,
        up=np.ceil(1.1 * demand) + 1.0,
        busy=demand,
        waiting=np.zeros_like(demand),
        starting=np.zeros((*demand.shape, AGES)),
    )


def from_targets(demand: FloatArray, targets: FloatArray) -> LobbyState:
    """Estimate the state from the notebook's observation: its demand and its last targets.

    `demand` is ``(lanes,)``, `targets` is ``(lanes, n)``, oldest first. The servers of the oldest
    target are taken to be up; each later rise above the highest target so far is still starting.
    """
    highest = np.maximum.accumulate(targets, axis=1)
    starting = np.zeros((len(targets), AGES))
    # The newest target was recommended one step ago.
    starting[:, 1 : targets.shape[1]] = np.diff(highest, axis=1)[:, ::-1]
    up = targets[:, 0]
    busy = np.minimum(up, demand)
    return LobbyState(demand, up, busy, demand - busy, starting)


def meet(state: LobbyState, demand: FloatArray, ended: Ended, lobby: Lobby) -> Met:
    """Points 1 to 6 of a step: starts end, matches end and arrive, the queue is served.

    `demand` is that of the new step, ``(lanes,)``.
    """
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
    """The band rounded up to whole servers, within the limits `least` and `most`.

    The keep level is raised to the raise level where it was lower.
    """
    low = np.clip(np.ceil(band.raise_level), least, most)
    return Band(low, np.clip(np.maximum(np.ceil(band.keep_level), low), least, most))


def act(state: LobbyState, band: Band) -> Acted:
    """Point 7: launch up to the raise level, remove idle servers down to the keep level.

    The band must be in whole servers (`whole`). Removal is immediate, but busy servers are never
    removed, and a start cannot be cancelled; so the position may stay above the keep level.
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
    """Starting servers, each one step older."""
    older = np.empty_like(starting)
    older[..., 0] = 0.0
    older[..., 1:] = starting[..., :-1]
    older[..., -1] += starting[..., -1]
    return older


def _without(starting: FloatArray, ended: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Remove the oldest `ended` starting servers. Returns (the rest, mean age of the removed)."""
    if not ended.any():
        return starting, np.full(ended.shape, np.nan)
    # Servers older than each age: `ended` minus this is what remains to take from that age.
    older = np.cumsum(starting[..., ::-1], axis=-1)[..., ::-1] - starting
    done = np.clip(ended[..., np.newaxis] - older, 0.0, starting)
    ages = done @ np.arange(starting.shape[-1], dtype=np.float64)
    mean = np.divide(ages, ended, out=np.full(ended.shape, np.nan), where=ended > 0)
    return starting - done, mean
