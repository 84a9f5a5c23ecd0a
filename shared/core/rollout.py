"""Roll band policies out on recorded demand and drawn lead paths: one way for search and scores."""

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
    """Decides a band for many lanes at once; what it remembers goes in and comes out."""

    def begin(self) -> M:
        """What is remembered before the first step."""
        ...

    def decide(self, before: M, met: Met, ended: Ended, rows: IntArray) -> tuple[M, Band]:
        """The band after a step, in servers; `rows` number the demand seen last, by lane."""
        ...


@dataclass(frozen=True, slots=True)
class LobbyFleet:
    """A fleet, as roll-outs know it."""

    lobby: Lobby
    guards: LobbyGuards
    usual_lead: float = USUAL_LEAD
    """Steps that its servers usually take to start: a prior."""


class Step(NamedTuple):
    """One step of every lane."""

    met: Met
    ended: Ended
    band: Band
    """In force: in whole servers, within floors and limits."""
    acted: Acted


def roll_out(
    policy: BandPolicy[M],
    demands: FloatArray,
    starts: Starts,
    first_rows: IntArray,
    steps: int,
    fleet: LobbyFleet,
) -> Iterator[Step]:
    """So many steps of every lane, from row `first_rows` on, whose demand is met first.

    `demands`: the whole series, ``(rows,)``. A lane begins with the row before served (`opening`);
    `starts` draw the start-up times and failures of each lane.
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


def mean_cost(rolled: Iterator[Step], skipped: int) -> FloatArray:
    """Mean cost per step of each lane, the first `skipped` steps left out, shape ``(lanes,)``."""
    total, counted = np.zeros(()), 0
    for number, step in enumerate(rolled):
        if number >= skipped:
            total, counted = total + step.met.cost, counted + 1
    return np.asarray(total / max(counted, 1))


@dataclass(frozen=True, slots=True)
class LobbyScore:
    """What a contender did over a scored part: means over the paths, unless it says otherwise."""

    steps: int
    costs: FloatArray
    """Per step, of each path, ``(paths,)``."""
    waiting_mean: float
    """Matches that wait, a step."""
    waiting_p95: float
    """Over all steps and paths."""
    matches_that_wait_pct: float
    """Of the new matches, those that were not served in the step they came in."""
    idle_server_steps: float
    launches: float
    lost: float
    """Matches that left unserved."""

    @property
    def cost_per_step(self) -> float:
        """Mean over the paths."""
        return float(self.costs.mean())

    @property
    def standard_error(self) -> float:
        """Of that mean, over the paths; 0 of a single one."""
        paths = len(self.costs)
        return float(self.costs.std(ddof=1) / np.sqrt(paths)) if paths > 1 else 0.0


def scored(rolled: Iterator[Step]) -> LobbyScore:
    """The score of a roll-out, every lane a path."""
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
