"""Roll out band policies on recorded demand and sampled lead times; for policy search and scoring.

A *lead path* is one sampled series of start-up lead times, a value per step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from shared.core.arrays import FloatArray, IntArray
from shared.core.lead_process import USUAL_LEAD, Starts
from shared.core.lobby import Acted, Band, Ended, Lobby, Met, meet, opening
from shared.core.lobby_guards import LobbyGuards

M = TypeVar("M")


class BandPolicy(Protocol[M]):
    """A policy that decides bands for many lanes at once; its memory is passed in and returned."""

    def begin(self) -> M:
        """Memory before the first step."""
        ...

    def decide(self, before: M, met: Met, ended: Ended, rows: IntArray) -> tuple[M, Band]:
        """Returns (memory, band in servers) after a step.

        `rows` ``(lanes,)`` are the indices of the newest demand that each lane has seen.
        """
        ...


@dataclass(frozen=True, slots=True)
class LobbyFleet:
    """What a roll-out needs to know of a fleet."""

    lobby: Lobby
    guards: LobbyGuards
    usual_lead: float = USUAL_LEAD
    """Typical start-up time of its servers, in steps: the prior of the lead time."""


class Step(NamedTuple):
    """One step, in every lane."""

    met: Met
    ended: Ended
    band: Band
    """The band after floors and limits, in whole servers."""
    acted: Acted


def roll_out(
    policy: BandPolicy[M],
    demands: FloatArray,
    starts: Starts,
    first_rows: IntArray,
    steps: int,
    fleet: LobbyFleet,
) -> Iterator[Step]:
    """Yield `steps` steps of every lane; the first one meets the demand of row `first_rows`.

    `demands` is the whole series, ``(rows,)``, in servers; `first_rows` is ``(lanes,)``. In the
    initial state of a lane the demand of the row before is served (`opening`). `starts` samples the
    start-up times and failures of each lane.
    """
    state = opening(demands[first_rows - 1])
    memory, guarded = policy.begin(), fleet.guards.begin(len(first_rows))
    for step in range(steps):
        rows = first_rows + step
        ended = starts.ended(step)
        met = meet(state, demands[rows], ended, fleet.lobby)
        memory, wanted = policy.decide(memory, met, ended, rows)
        guarded, band, acted = fleet.guards.act(met.state, wanted, rows, guarded)
        starts.launch(step, acted.launched)
        state = acted.state
        yield Step(met, ended, band, acted)


class LedgerRow(NamedTuple):
    """One step of one lane: as it is paid for, then the band and what it does."""

    arrivals: float
    came_up: float
    failed: float
    lost: float
    up: float
    starting: float
    busy: float
    waiting: float
    cost: float
    raise_level: float
    keep_level: float
    told: float
    launched: float
    removed: float


def first_lane_kept(rolled: Iterator[Step], ledger: list[LedgerRow]) -> Iterator[Step]:
    """The same steps; as they go by, those of the first lane are added to `ledger`."""
    for step in rolled:
        met, ended, band, acted = step
        state = met.state
        numbers = (
            met.arrivals,
            ended.came_up,
            ended.failed,
            met.lost,
            state.up,
            state.starting.sum(axis=1),
            state.busy,
            state.waiting,
            met.cost,
            band.raise_level,
            band.keep_level,
            acted.told,
            acted.launched,
            acted.removed,
        )
        ledger.append(LedgerRow(*(float(number[0]) for number in numbers)))
        yield step


def mean_cost(rolled: Iterator[Step], skipped: int) -> FloatArray:
    """Mean cost per step of each lane, without the first `skipped` steps; shape ``(lanes,)``."""
    total, counted = np.zeros(()), 0
    for number, step in enumerate(rolled):
        if number >= skipped:
            total, counted = total + step.met.cost, counted + 1
    return np.asarray(total / max(counted, 1))


@dataclass(frozen=True, slots=True)
class LobbyScore:
    """A contender's result on the scored part; means over lead paths unless stated otherwise."""

    steps: int
    costs: FloatArray
    """Mean cost per step on each path, ``(paths,)``."""
    waiting_mean: float
    """Waiting matches per step."""
    waiting_p95: float
    """95th percentile of the waiting matches, over all steps and paths."""
    matches_that_wait_pct: float
    """Percentage of the new matches that were not served in the step in which they arrived."""
    idle_server_steps: float
    launches: float
    lost: float
    """Waiting matches whose players left."""

    @property
    def cost_per_step(self) -> float:
        """Mean over the paths."""
        return float(self.costs.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of that mean over the paths; 0 if there is only one."""
        paths = len(self.costs)
        return float(self.costs.std(ddof=1) / np.sqrt(paths)) if paths > 1 else 0.0


def scored(rolled: Iterator[Step]) -> LobbyScore:
    """The score of a roll-out in which every lane is one lead path."""
    costs: list[FloatArray] = []
    waiting: list[FloatArray] = []
    made_wait, came, idle, launches, lost = (np.zeros(()) for _ in range(5))
    for met, _, _, acted in rolled:
        costs.append(met.cost)
        waiting.append(met.state.waiting)
        made_wait = made_wait + np.minimum(met.arrivals, met.state.waiting)
        came = came + met.arrivals
        idle = idle + met.state.idle
        launches = launches + acted.launched
        lost = lost + met.lost
    queued = np.array(waiting)
    return LobbyScore(
        steps=len(costs),
        costs=np.array(costs).mean(axis=0),
        waiting_mean=float(queued.mean()),
        waiting_p95=float(np.quantile(queued, 0.95)),
        matches_that_wait_pct=float(100.0 * made_wait.sum() / max(float(came.sum()), 1e-9)),
        idle_server_steps=float(idle.mean()),
        launches=float(launches.mean()),
        lost=float(lost.mean()),
    )
