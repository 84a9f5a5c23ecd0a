"""Guards: from the target that a policy requests to the recommended target, the number told.

The guards act in this order, each on the result of the one before; where two contradict each
other, the later one wins:

1. `min_servers`, `max_servers`: the requested target is clipped to the fleet's limits.
2. `below_demand`: the target is not below the demand. Only where a rate limit (3 or 5) is set:
   without one, prediction raises its recommendation as soon as higher demand is reported; with
   one it may not.
3. `scale_down_delay`, a stabilization window as in Kubernetes: the target does not fall below the
   highest request of the last steps. An earlier request keeps servers; it never adds any.
4. `scheduled_floor`: the servers that a known event needs. After 3, since the end of an event is
   known and needs no delay; before 5, since the floor rises early enough for it (`schedule`).
5. `max_step_up`, `max_step_down`: rate limits, from the recommended target of the step before.
6. `allocated_floor`: servers in use, and those that waiting players need, are kept even if a rate
   limit is exceeded by that.
7. `min_servers`, `max_servers` again: they stand for cost and quota, so they hold whatever is in
   use, and at once after they were changed.

So only 6 and 7 exceed a rate limit. If an event's floor could not rise in time, because the worker
was down or the fleet is new, the event gets its servers late, at the rate limit. The number told is
the one that was decided, also where callers did not get it: in shadow mode, and on a 503.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np

from shared.core.arrays import FloatArray
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
    """Servers per step."""
    max_step_down: int = 0
    """Servers per step."""
    scale_down_delay: int = 0
    """Stabilization window: steps for which less must be requested before the target falls."""
    floor_at_allocated: bool = False
    servers_per_ticket: float = 1.0
    """Servers that each waiting ticket adds to the floor."""
    scheduled_floors: tuple[ScheduledFloor, ...] = ()

    @property
    def rate_limited(self) -> bool:
        """Whether a guard depends on the recommended targets of earlier steps."""
        return bool(self.max_step_up or self.max_step_down or self.scale_down_delay)

    def floor(self, allocated: int | None, tickets_waiting: int | None) -> float:
        """Servers that must be kept, as far as they are reported; 0 where this guard is off."""
        if not self.floor_at_allocated:
            return 0.0
        return (allocated or 0) + self.servers_per_ticket * (tickets_waiting or 0)

    def scheduled(self, now: datetime, lead_steps: int, step_s: float) -> float:
        """Servers that known events need from a decision at `now`, 0 where no event is near.

        A step takes `step_s` seconds; servers are up `lead_steps` after a decision.
        """
        if not self.scheduled_floors:
            return 0.0
        step = timedelta(seconds=step_s)
        lead = lead_steps * step
        return max(
            event.servers_at(now, lead, step, self.max_step_up) for event in self.scheduled_floors
        )

    def scheduled_at(self, times: FloatArray, lead_steps: int, step_s: float) -> list[float]:
        """`scheduled` at each of `times`, in seconds since 1970."""
        moments = (datetime.fromtimestamp(at, UTC) for at in times.tolist())
        return [self.scheduled(moment, lead_steps, step_s) for moment in moments]


NO_GUARDS = Guards()


class GuardEffect(NamedTuple):
    """The target before and after one guard, in servers."""

    guard: GuardName
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class GuardedTarget:
    """A recommended target, and how the guards got to it."""

    target: float
    """In servers, within the fleet's limits."""
    requests: tuple[float, ...]
    """The newest `scale_down_delay` requested targets, oldest first: the next step needs them."""
    guards: tuple[GuardName, ...]
    """Those that changed the target, the last to act first: that one determined it."""
    effects: tuple[GuardEffect, ...]
    """Of every guard in force, in their order, also of those that changed nothing."""


def guarded(
    requested: float,
    demand: float,
    guards: Guards,
    parameters: FleetParameters,
    *,
    floor: float = 0.0,
    scheduled: float = 0.0,
    previous: float | None = None,
    requests: tuple[float, ...] = (),
) -> GuardedTarget:
    """The recommended target for a requested one, all in servers; see the module's docstring.

    `floor` and `scheduled` come from `Guards.floor` and `Guards.scheduled`. `previous` is the
    recommended target of the step before; without one no rate limit applies. `requests` are the
    `GuardedTarget.requests` of the step before.
    """
    low, high = parameters.min_servers, parameters.max_servers
    target = _Target(requested)
    target.clip(low, high)
    if guards.rate_limited:
        target.change(max(target.servers, min(demand, high)), "below_demand")
    if guards.scale_down_delay:
        requests = requests[-guards.scale_down_delay :]
        if not requests and previous is not None:
            requests = (previous,)
        newest = target.servers
        if previous is not None:
            held = min(previous, max(newest, *requests)) if newest < previous else newest
            target.change(held, "scale_down_delay")
        requests = (*requests, newest)[-guards.scale_down_delay :]
    else:
        requests = ()
    if scheduled:
        target.change(max(target.servers, min(scheduled, high)), "scheduled_floor")
    if previous is not None and guards.max_step_up:
        target.change(min(target.servers, previous + guards.max_step_up), "max_step_up")
    if previous is not None and guards.max_step_down:
        target.change(max(target.servers, previous - guards.max_step_down), "max_step_down")
    if floor:
        target.change(max(target.servers, floor), "allocated_floor")
    target.clip(low, high)
    changed = [each.guard for each in reversed(target.effects) if _differ(each.before, each.after)]
    return GuardedTarget(
        target.servers, requests, tuple(dict.fromkeys(changed)), tuple(target.effects)
    )


def guarded_series(
    requested: FloatArray,
    demands: FloatArray,
    guards: Guards,
    parameters: FleetParameters,
    *,
    floors: Sequence[float] | None = None,
    scheduled: Sequence[float] | None = None,
    previous: float | None = None,
) -> FloatArray:
    """`guarded` for the requested targets of successive steps, in servers, shape ``(steps,)``.

    Returns the recommended targets. `previous` is the one before the first.
    """
    if guards == NO_GUARDS:
        return parameters.within_limits(requested)
    targets = np.empty(len(requested))
    requests: tuple[float, ...] = ()
    for step, (request, demand) in enumerate(
        zip(requested.tolist(), demands.tolist(), strict=True)
    ):
        after = guarded(
            request,
            demand,
            guards,
            parameters,
            floor=floors[step] if floors is not None else 0.0,
            scheduled=scheduled[step] if scheduled is not None else 0.0,
            previous=previous,
            requests=requests,
        )
        previous, requests = after.target, after.requests
        targets[step] = previous
    return targets


def _differ(before: float, after: float) -> bool:
    return before != after and bool(round(after - before, TARGET_DECIMALS))


class _Target:
    """A target, and the effects of the guards on it so far."""

    def __init__(self, servers: float) -> None:
        self.servers = servers
        self.effects: list[GuardEffect] = []

    def change(self, servers: float, by: GuardName) -> None:
        self.effects.append(GuardEffect(by, self.servers, servers))
        self.servers = servers

    def clip(self, low: float, high: float) -> None:
        self.change(max(self.servers, low), "min_servers")
        self.change(min(self.servers, high), "max_servers")
