"""What stands between a policy's band and the number that is told, for many lanes at once.

In this order, each on what the one before made of it:

1. Limits and floors raise the band: `min_servers`, `max_servers`; what a known event needs
   (`scheduled`); servers in use and those that waiting players need (`floor_at_allocated`).
2. The number told is made of the band and the fleet's state (`shared.core.lobby.act`).
3. `scale_down_delay`: no less than the highest number of the last steps, and no more than was told.
4. `max_step_up`, `max_step_down`: no further from the number told before.
5. Floors, then limits, again: they hold whatever a gentle move would want.

What is launched and removed follows from the number in the end, and so does the number: no match is
ended and no start cancelled for it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray, IntArray
from shared.core.guards import NO_GUARDS, Guards
from shared.core.lobby import Acted, Band, LobbyState, act, whole


class GuardMemory(NamedTuple):
    """What guards remember from step to step."""

    told: FloatArray
    """The number told before, ``(lanes,)``; NaN: none was."""
    wanted: FloatArray
    """Numbers before the rate limits, of the newest `scale_down_delay` steps, ``(n, lanes)``."""


@dataclass(frozen=True, slots=True)
class LobbyGuards:
    """A fleet's limits and guards."""

    least: float
    """`min_servers`."""
    most: float
    """`max_servers`."""
    guards: Guards = NO_GUARDS
    scheduled: FloatArray | None = field(default=None, compare=False)
    """Servers that known events need after each row, ``(rows,)``; None: there are none."""

    def begin(self, lanes: int) -> GuardMemory:
        """Before the first step: no number was told."""
        return GuardMemory(np.full(lanes, np.nan), np.empty((0, lanes)))

    def act(
        self, state: LobbyState, wanted: Band, rows: IntArray, before: GuardMemory
    ) -> tuple[GuardMemory, Band, Acted]:
        """The band in force, and what it does; `rows` number the demand seen last, by lane."""
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
        """The number within the rate limits, and what they remember."""
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
