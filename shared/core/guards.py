"""What stands between the servers that a policy asks for and the number that is told.

The guards act in this order, each on what the one before made of it; where two contradict each
other the later one wins:

1. `min_servers`, `max_servers`: an ask beyond the fleet's limits is brought to them.
2. `below_demand`: no less than the demand. Only where a guard of moves (3 and 4) is set: without
   one, prediction raises what it tells as soon as demand is reported, which they could not hold.
3. `scale_down_delay`: no less than the highest ask of the last steps, and no more than was told:
   an old ask keeps servers, it brings none (as Kubernetes' stabilisation window).
4. `max_step_up`, `max_step_down`: no further from the number told before.
5. `allocated_floor`: servers in use, and those that waiting players need, are never given up for
   the sake of a gentle move.
6. `min_servers`, `max_servers` again: they are what the owner pays for and has quota for, so they
   hold whatever is in use, and at once where they were changed.
"""

from dataclasses import dataclass
from typing import Literal

from shared.core.parameters import FleetParameters
from shared.core.recommendation import TARGET_DECIMALS

GuardName = Literal[
    "below_demand",
    "scale_down_delay",
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

    @property
    def of_moves(self) -> bool:
        """Whether one of them looks at what was told before."""
        return bool(self.max_step_up or self.max_step_down or self.scale_down_delay)

    def floor(self, allocated: int | None, tickets_waiting: int | None) -> float:
        """Servers that must not be given up, as far as they are known; 0 where it is off."""
        if not self.floor_at_allocated:
            return 0.0
        return (allocated or 0) + self.servers_per_ticket * (tickets_waiting or 0)


NO_GUARDS = Guards()


@dataclass(frozen=True, slots=True)
class Told:
    """What the guards made of an ask."""

    target: float
    """In servers, within the fleet's limits."""
    asks: tuple[float, ...]
    """The newest `scale_down_delay` asks, oldest first: the next step needs them."""
    guards: tuple[GuardName, ...]
    """Those that changed the number; the first is the one that settled it."""


def guarded(
    ask: float,
    demand: float,
    guards: Guards,
    parameters: FleetParameters,
    *,
    floor: float = 0.0,
    told: float | None = None,
    asks: tuple[float, ...] = (),
) -> Told:
    """The number to tell for an ask, all in servers; the order is in the module's docstring.

    `told` is the number told before, and None where there was none: then no move is limited.
    `asks` are the `Told.asks` of the step before.
    """
    low, high = parameters.min_servers, parameters.max_servers
    moves = _Moves(ask)
    moves.within(low, high)
    if guards.of_moves:
        moves.to(max(moves.number, min(demand, high)), "below_demand")
    if guards.scale_down_delay:
        asks = asks[-guards.scale_down_delay :]
        if not asks and told is not None:
            asks = (told,)
        wanted = moves.number
        if told is not None and wanted < told:
            moves.to(min(told, max(wanted, *asks)), "scale_down_delay")
        asks = (*asks, wanted)[-guards.scale_down_delay :]
    else:
        asks = ()
    if told is not None and guards.max_step_up:
        moves.to(min(moves.number, told + guards.max_step_up), "max_step_up")
    if told is not None and guards.max_step_down:
        moves.to(max(moves.number, told - guards.max_step_down), "max_step_down")
    moves.to(max(moves.number, floor), "allocated_floor")
    moves.within(low, high)
    return Told(moves.number, asks, tuple(dict.fromkeys(reversed(moves.by))))


class _Moves:
    """A number of servers, and which guards have changed it."""

    def __init__(self, number: float) -> None:
        self.number = number
        self.by: list[GuardName] = []

    def to(self, number: float, by: GuardName) -> None:
        if number != self.number and round(number - self.number, TARGET_DECIMALS):
            self.by.append(by)
        self.number = number

    def within(self, low: float, high: float) -> None:
        self.to(max(self.number, low), "min_servers")
        self.to(min(self.number, high), "max_servers")
