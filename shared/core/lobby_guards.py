"""Guards of the lobby's dynamics: from a policy's band to the recommended target, for many lanes.

The guards act in this order, each on the result of the one before:

1. Floors and limits are applied to the band. Floors: the servers that a known event needs
   (`scheduled`), and servers in use plus those that waiting players need (`floor_at_allocated`).
   Limits: `min_servers`, `max_servers`.
2. The band and the fleet's state give a target (`shared.core.lobby.act`).
3. `scale_down_delay`, a stabilization window: the target does not fall below the highest one of
   the last steps. An earlier target keeps servers; it never adds any above the last recommendation.
4. `max_step_up`, `max_step_down`: rate limits, from the recommended target of the step before.
5. Floors, then limits, again: they take precedence over stabilization window and rate limits.

Servers are launched and removed towards the resulting target. Since no busy server is removed and
no start is cancelled for it, the recommended target is the position that was actually reached.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray, IntArray
from shared.core.guards import NO_GUARDS, Guards
from shared.core.lobby import Acted, Band, LobbyState, act, whole


class GuardMemory(NamedTuple):
    """Memory of the guards between steps."""

    told: FloatArray
    """Recommended target of the step before, ``(lanes,)``; NaN before the first step."""
    wanted: FloatArray
    """Targets before stabilization window and rate limits, of the newest `scale_down_delay` steps,
    ``(n, lanes)``."""


@dataclass(frozen=True, slots=True)
class LobbyGuards:
    """Limits and guards of a fleet."""

    least: float
    """`min_servers`."""
    most: float
    """`max_servers`."""
    guards: Guards = NO_GUARDS
    scheduled: FloatArray | None = field(default=None, compare=False)
    """Servers needed for known events after each row of demand, ``(rows,)``; None: no events."""

    def begin(self, lanes: int) -> GuardMemory:
        """Memory before the first step: nothing was recommended yet."""
        return GuardMemory(np.full(lanes, np.nan), np.empty((0, lanes)))

    def act(
        self, state: LobbyState, wanted: Band, rows: IntArray, before: GuardMemory
    ) -> tuple[GuardMemory, Band, Acted]:
        """Returns (memory, band within floors and limits, servers launched and removed).

        `rows` ``(lanes,)`` are the indices of the newest demand that each lane has seen.
        """
        floor = self._floor(state, rows)
        raised = Band(*(np.maximum(level, floor) for level in wanted))
        band = whole(raised, self.least, self.most)
        acted = act(state, band)
        if not self.guards.rate_limited:
            return before._replace(told=acted.told), band, acted
        number, remembered = self._gently(acted.told, before)
        final = np.clip(np.maximum(number, np.ceil(floor)), self.least, self.most)
        acted = act(state, Band(final, final))
        return GuardMemory(acted.told, remembered), band, acted

    def _floor(self, state: LobbyState, rows: IntArray) -> FloatArray:
        guards = self.guards
        floor = np.zeros(len(rows))
        if guards.floor_at_allocated:
            floor = state.busy + guards.servers_per_ticket * state.waiting
        if self.scheduled is not None:
            floor = np.maximum(floor, self.scheduled[rows])
        return floor

    def _gently(self, number: FloatArray, before: GuardMemory) -> tuple[FloatArray, FloatArray]:
        """Targets within stabilization window and rate limits. Returns (targets, new `wanted`)."""
        guards, told, remembered = self.guards, before.told, before.wanted
        some = ~np.isnan(told)
        if guards.scale_down_delay:
            highest = np.maximum(number, remembered.max(axis=0, initial=0.0))
            held = np.where(number < told, np.minimum(told, highest), number)
            remembered = np.concatenate((remembered, number[np.newaxis]))
            remembered = remembered[-guards.scale_down_delay :]
            number = np.where(some, held, number)
        if guards.max_step_up:
            number = np.where(some, np.minimum(number, told + guards.max_step_up), number)
        if guards.max_step_down:
            number = np.where(some, np.maximum(number, told - guards.max_step_down), number)
        return number, remembered
