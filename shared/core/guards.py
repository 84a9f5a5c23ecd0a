"""What stands between the servers that a policy asks for and the number that is told.

The guards act in this order, each on what the one before made of it; where two contradict each
other the later one wins:

1. `min_servers`, `max_servers`: an ask beyond the fleet's limits is brought to them.
2. `below_demand`: no less than the demand. Only where a guard of moves (3 and 5) is set: without
   one, prediction raises what it tells as soon as demand is reported, which they could not hold.
3. `scale_down_delay`: no less than the highest ask of the last steps, and no more than was told:
   an old ask keeps servers, it brings none (as Kubernetes' stabilisation window).
4. `scheduled_floor`: what a known event needs. After the delay, since its end is known too and
   needs no second look; before the steps, since it rises early enough for them (`schedule`).
5. `max_step_up`, `max_step_down`: no further from the number told before.
6. `allocated_floor`: servers in use, and those that waiting players need, are never given up for
   the sake of a gentle move.
7. `min_servers`, `max_servers` again: they are what the owner pays for and has quota for, so they
   hold whatever is in use, and at once where they were changed.

So a number moves faster than the steps allow for 6 and 7 alone. An event whose floor could not rise
in time, as the worker was away or the fleet is new, gets its servers late, by steps. What counts as
told is what was decided, also where callers were told nothing of it: in shadow, and on 503.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.core.parameters import FleetParameters
from shared.core.recommendation import TARGET_DECIMALS
from shared.core.schedule import ScheduledFloor

GuardName = Literal[
    "below_demand",
    "scale_down_delay",
    "scheduled_floor",
    "max_step_up",
    "max_step_down",
    "allocated_floor",
    "min_servers",
    "max_servers",
]


@dataclass(frozen=True, slots=True)
class Guards:
    """One fleet's guards beside its limits; 0 and False are off."""

    max_step_up: int = 0
    """Servers, in a step."""
    max_step_down: int = 0
    """Servers, in a step."""
    scale_down_delay: int = 0
    """Steps for which less has to be asked before less is told."""
    floor_at_allocated: bool = False
    servers_per_ticket: float = 1.0
    """Servers that a waiting ticket adds to the floor."""
    scheduled_floors: tuple[ScheduledFloor, ...] = ()

    @property
    def limit_moves(self) -> bool:
        """Whether one of them looks at what was told before."""
        return bool(self.max_step_up or self.max_step_down or self.scale_down_delay)

    def floor(self, allocated: int | None, tickets_waiting: int | None) -> float:
        """Servers that must not be given up, as far as they are known; 0 where it is off."""
        if not self.floor_at_allocated:
            return 0.0
        return (allocated or 0) + self.servers_per_ticket * (tickets_waiting or 0)

    def scheduled(self, now: datetime, parameters: FleetParameters, step_s: float) -> float:
        """Servers that known events need of a decision at `now`; `step_s` seconds are a step."""
        if not self.scheduled_floors:
            return 0.0
        step = timedelta(seconds=step_s)
        lead = parameters.lead_steps * step
        return max(
            event.servers_at(now, lead, step, self.max_step_up) for event in self.scheduled_floors
        )

    def scheduled_at(
        self, times: NDArray[np.float64], parameters: FleetParameters, step_s: float
    ) -> list[float]:
        """`scheduled` at each of `times`, in seconds since 1970."""
        moments = (datetime.fromtimestamp(at, UTC) for at in times.tolist())
        return [self.scheduled(moment, parameters, step_s) for moment in moments]


NO_GUARDS = Guards()


class Move(NamedTuple):
    """What one guard made of a number, in servers."""

    guard: GuardName
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Told:
    """What the guards made of an ask."""

    target: float
    """In servers, within the fleet's limits."""
    asks: tuple[float, ...]
    """The newest `scale_down_delay` asks, oldest first: the next step needs them."""
    guards: tuple[GuardName, ...]
    """Those that changed the number; the first is the one that settled it."""
    moves: tuple[Move, ...]
    """Of every guard that was in force, in their order, also of those that changed nothing."""


def guarded(
    ask: float,
    demand: float,
    guards: Guards,
    parameters: FleetParameters,
    *,
    floor: float = 0.0,
    scheduled: float = 0.0,
    told: float | None = None,
    asks: tuple[float, ...] = (),
) -> Told:
    """The number to tell for an ask, all in servers; the order is in the module's docstring.

    `floor` and `scheduled` are what `Guards.floor` and `Guards.scheduled` say. `told` is the number
    told before, and None where there was none: then no move is limited. `asks` are the `Told.asks`
    of the step before.
    """
    low, high = parameters.min_servers, parameters.max_servers
    moves = _Moves(ask)
    moves.within(low, high)
    if guards.limit_moves:
        moves.to(max(moves.number, min(demand, high)), "below_demand")
    if guards.scale_down_delay:
        asks = asks[-guards.scale_down_delay :]
        if not asks and told is not None:
            asks = (told,)
        wanted = moves.number
        if told is not None:
            held = min(told, max(wanted, *asks)) if wanted < told else wanted
            moves.to(held, "scale_down_delay")
        asks = (*asks, wanted)[-guards.scale_down_delay :]
    else:
        asks = ()
    if scheduled:
        moves.to(max(moves.number, min(scheduled, high)), "scheduled_floor")
    if told is not None and guards.max_step_up:
        moves.to(min(moves.number, told + guards.max_step_up), "max_step_up")
    if told is not None and guards.max_step_down:
        moves.to(max(moves.number, told - guards.max_step_down), "max_step_down")
    if floor:
        moves.to(max(moves.number, floor), "allocated_floor")
    moves.within(low, high)
    changed = [move.guard for move in reversed(moves.made) if _differ(move.before, move.after)]
    return Told(moves.number, asks, tuple(dict.fromkeys(changed)), tuple(moves.made))


def guarded_series(
    asks: NDArray[np.float64],
    demands: NDArray[np.float64],
    guards: Guards,
    parameters: FleetParameters,
    *,
    floors: Sequence[float] | None = None,
    scheduled: Sequence[float] | None = None,
    told: float | None = None,
) -> NDArray[np.float64]:
    """What `guarded` makes of the asks of successive steps, all in servers, shape ``(steps,)``.

    `told` is the number told before the first.
    """
    if guards == NO_GUARDS:
        return np.clip(asks, parameters.min_servers, parameters.max_servers)
    made = np.empty(len(asks))
    remembered: tuple[float, ...] = ()
    for step, (ask, demand) in enumerate(zip(asks.tolist(), demands.tolist(), strict=True)):
        after = guarded(
            ask,
            demand,
            guards,
            parameters,
            floor=floors[step] if floors is not None else 0.0,
            scheduled=scheduled[step] if scheduled is not None else 0.0,
            told=told,
            asks=remembered,
        )
        told, remembered = after.target, after.asks
        made[step] = told
    return made


def _differ(before: float, after: float) -> bool:
    return before != after and bool(round(after - before, TARGET_DECIMALS))


class _Moves:
    """A number of servers, and what the guards have made of it."""

    def __init__(self, number: float) -> None:
        self.number = number
        self.made: list[Move] = []

    def to(self, number: float, by: GuardName) -> None:
        self.made.append(Move(by, self.number, number))
        self.number = number

    def within(self, low: float, high: float) -> None:
        self.to(max(self.number, low), "min_servers")
        self.to(min(self.number, high), "max_servers")
