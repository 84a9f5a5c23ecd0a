"""The lobby's dynamics: conservation laws, and agreement with a simulation of single servers."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.lead_process import Starts, draws
from shared.core.lobby import (
    AGES,
    Band,
    Ended,
    Lobby,
    act,
    from_targets,
    meet,
    opening,
    whole,
)

LOBBY = Lobby()
DEMANDS = st.lists(st.floats(0, 200), min_size=2, max_size=60)


def test_by_default_a_twelfth_of_the_matches_ends_and_a_twentieth_of_the_waiting_leaves() -> None:
    assert LOBBY.keep_most == pytest.approx(11 / 12)
    assert LOBBY.leaving == pytest.approx(0.05)
    assert Lobby(step_seconds=900).keep_most == 0.0
    assert Lobby(step_seconds=5000).leaving == 1.0


@given(DEMANDS)
def test_with_enough_servers_busy_is_the_demand(demands: list[float]) -> None:
    state = opening(np.array([demands[0]]))._replace(up=np.array([1e6]))
    for demand in demands[1:]:
        met = meet(state, np.array([demand]), Ended(np.zeros(1), np.zeros(1)), LOBBY)
        state = met.state
        assert state.busy == pytest.approx(demand, abs=1e-9)
        assert state.waiting == pytest.approx(0, abs=1e-9)
        assert met.lost == 0


@given(DEMANDS, st.integers(0, 2**31), st.floats(0.1, 3))
def test_servers_and_matches_are_conserved(demands: list[float], seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    steps, lanes = len(demands) - 1, 3
    starts = Starts(rng.uniform(1, 9, (2, steps)), np.array([0, 1, 1]), seed)
    state = opening(np.full(lanes, demands[0]))
    for step, demand in enumerate(demands[1:]):
        ended = starts.ended(step)
        met = meet(state, np.full(lanes, demand), ended, LOBBY)
        after = met.state
        was_starting, is_starting = state.starting.sum(axis=1), after.starting.sum(axis=1)
        assert np.array_equal(was_starting - ended.came_up - ended.failed, is_starting)
        assert np.array_equal(after.up, state.up + ended.came_up)
        came_to_play = state.busy * _keep(state.demand, demand) + state.waiting + met.arrivals
        np.testing.assert_allclose(after.busy + after.waiting + met.lost, came_to_play, atol=1e-9)
        assert (after.busy <= np.maximum(after.up, state.busy) + 1e-9).all()
        assert (after.waiting >= 0).all()
        free = after.up - after.busy
        assert (np.minimum(after.waiting, free) <= 1e-9).all(), "nobody waits beside a free server"
        raised = np.array([share * demand, rng.uniform(0, 200), 0.0])
        band = whole(Band(raised, raised * rng.uniform(0.5, 2)), 0, 300)
        acted = act(after, band)
        state = acted.state
        assert np.array_equal(acted.told, state.position)
        assert np.array_equal(acted.told, after.position + acted.launched - acted.removed)
        assert (acted.removed <= after.idle + 1e-9).all()
        assert (np.minimum(acted.launched, acted.removed) == 0).all()
        for whole_servers in (state.up, state.starting, acted.launched, acted.removed):
            assert np.array_equal(whole_servers, np.round(whole_servers))
        starts.launch(step, acted.launched)


def _keep(before: np.ndarray, demand: float) -> np.ndarray:
    most = np.full_like(before, LOBBY.keep_most)
    return np.divide(demand, before, out=most, where=demand < most * before)


@dataclass
class OneByOne:
    """Reference simulation of one fleet that tracks each server separately."""

    leads: list[float]
    seed_of_path: np.ndarray
    up: int
    busy: float
    demand: float
    waiting: float = 0.0
    starting: list[tuple[int, float, float, bool]] = field(default_factory=list)
    """(Step of the launch, progress, progress at which the start ends, whether it fails)."""

    def step(self, number: int, demand: float, low: int, high: int) -> dict[str, float]:
        came_up = failed = 0
        still = []
        for launched, before, needs, fails in self.starting:
            progress = before + 1 / self.leads[number]
            if progress < needs:
                still.append((launched, progress, needs, fails))
            elif fails:
                failed += 1
            else:
                came_up += 1
        self.starting = still
        self.up += came_up
        keep = min(11 / 12, demand / self.demand if self.demand else 1.0)
        self.busy *= keep
        lost = self.waiting / 20
        arrivals = max(demand - keep * self.demand, 0.0)
        self.waiting += arrivals - lost
        matched = min(self.waiting, max(self.up - self.busy, 0.0))
        self.busy += matched
        self.waiting -= matched
        self.demand = demand
        idle = self.up - self.busy
        cost = idle + len(self.starting) + 5 * self.waiting + 30 * lost
        position = self.up + len(self.starting)
        launched = max(0, low - position)
        removed = min(max(0, position - high), int(np.floor(idle)))
        self.up -= removed
        for server in range(launched):
            needs, fails = draws(self.seed_of_path, number, np.array([server]))
            self.starting.append((number, 0.0, float(needs[0]), bool(fails[0])))
        return {
            "came_up": came_up,
            "failed": failed,
            "arrivals": arrivals,
            "lost": lost,
            "cost": cost,
            "launched": launched,
            "removed": removed,
            "up": self.up,
            "starting": len(self.starting),
        }


@pytest.mark.parametrize("seed", range(5))
def test_many_lanes_agree_with_the_reference_simulation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = 300
    demands = np.abs(np.cumsum(rng.normal(0, 3, steps + 1)) + 40)
    leads = rng.uniform(3, 12, (2, steps))
    starts = Starts(leads, np.array([1, 0]), seed)
    state = opening(np.array([demands[0], demands[0]]))
    plain = OneByOne(
        leads=leads[0].tolist(),
        seed_of_path=starts.path_seeds[:1],
        up=int(state.up[0]),
        busy=float(demands[0]),
        demand=float(demands[0]),
    )
    for step in range(steps):
        low = int(rng.integers(20, 90))
        high = low + int(rng.integers(0, 20))
        ended = starts.ended(step)
        met = meet(state, np.repeat(demands[step + 1], 2), ended, LOBBY)
        acted = act(met.state, Band(np.repeat(float(low), 2), np.repeat(float(high), 2)))
        starts.launch(step, acted.launched)
        state = acted.state
        expected = plain.step(step, float(demands[step + 1]), low, high)
        found = {
            "came_up": ended.came_up,
            "failed": ended.failed,
            "arrivals": met.arrivals,
            "lost": met.lost,
            "cost": met.cost,
            "launched": acted.launched,
            "removed": acted.removed,
            "up": state.up,
            "starting": state.starting.sum(axis=1),
        }
        for name, value in expected.items():
            assert found[name][1] == pytest.approx(value, abs=1e-6), (step, name)


def test_the_oldest_launch_is_taken_to_end_first() -> None:
    starting = np.zeros((1, AGES))
    starting[0, [2, 5]] = (4, 3)
    state = opening(np.array([10.0]))._replace(starting=starting)
    met = meet(state, np.array([10.0]), Ended(np.array([4.0]), np.array([1.0])), LOBBY)
    assert met.start_steps == pytest.approx((3 * 6 + 2 * 3) / 5)
    assert met.state.starting[0, 3] == 2
    assert met.state.starting.sum() == 2


def test_a_band_is_whole_and_within_the_limits() -> None:
    band = whole(Band(np.array([3.2, -1.0, 99.0]), np.array([1.0, 4.5, 120.0])), 2, 60)
    assert band.raise_level.tolist() == [4, 2, 60]
    assert band.keep_level.tolist() == [4, 5, 60]


def test_the_notebooks_targets_are_read_as_servers_up_and_starting() -> None:
    targets = np.array([[40.0, 40, 46, 43, 49], [30, 25, 20, 20, 20], [50, 60, 60, 60, 60]])
    state = from_targets(np.array([45.0, 22.0, 50.0]), targets)
    assert state.up.tolist() == [40, 30, 50]
    assert state.busy.tolist() == [40, 22, 50]
    assert state.waiting.tolist() == [5, 0, 0]
    assert state.position.tolist() == [49, 30, 60]
    assert state.starting[0, :6].tolist() == [0, 3, 0, 6, 0, 0], "the newest was told a step ago"
    assert state.starting[2, :6].tolist() == [0, 0, 0, 0, 10, 0]
