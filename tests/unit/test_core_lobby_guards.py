"""Guards in the lobby: recommended targets stay within them, and they never end a match."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.band_rule import TargetRule
from shared.core.guards import Guards
from shared.core.history import History
from shared.core.lead_process import Starts
from shared.core.lobby import Band, Lobby, opening
from shared.core.lobby_guards import LobbyGuards
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyFleet, Step, roll_out
from shared.core.schedule import ScheduledFloor
from shared.learning.lobby.scoring import fleet_of

STEPS = 120
DEMANDS = 50 + 25 * np.sin(np.arange(STEPS + 20) / 9)


def told(steps: list[Step]) -> np.ndarray:
    return np.array([step.acted.told[0] for step in steps])


def rolled(guards: Guards, targets: np.ndarray, least: float = 0, most: float = 200) -> list[Step]:
    fleet = LobbyFleet(Lobby(), LobbyGuards(least, most, guards))
    starts = Starts(np.full((1, STEPS), 3.0), np.zeros(1, dtype=np.int64), 2)
    rows = np.array([5])
    return list(roll_out(TargetRule(targets), DEMANDS, starts, rows, STEPS, fleet))


def test_without_guards_only_the_limits_apply() -> None:
    steps = rolled(Guards(), DEMANDS * 1.3, least=40, most=70)
    assert told(steps).min() >= 40
    assert all(step.band.raise_level[0] <= 70 for step in steps)


@pytest.mark.parametrize(("up", "down"), [(2, 0), (0, 1), (3, 2)])
def test_a_rate_limit_holds_between_successive_targets(up: int, down: int) -> None:
    changes = np.diff(told(rolled(Guards(max_step_up=up, max_step_down=down), DEMANDS * 1.2)))
    assert not up or changes.max() == up
    assert not down or changes.min() >= -down


def test_a_target_falls_only_after_the_scale_down_delay() -> None:
    delay = 6
    steps = rolled(Guards(scale_down_delay=delay), DEMANDS * 1.2)
    free = rolled(Guards(), DEMANDS * 1.2)
    numbers = told(steps)
    for at in np.flatnonzero(np.diff(numbers) < 0) + 1:
        wanted = np.ceil(1.2 * DEMANDS[5 + at - delay : 6 + at])
        assert numbers[at] >= min(wanted.max(), numbers[at - 1])
    removed = [sum(step.acted.removed[0] for step in one) for one in (steps, free)]
    assert removed[0] < removed[1]


def test_the_allocated_floor_includes_waiting_players() -> None:
    guards = Guards(floor_at_allocated=True, servers_per_ticket=1.0)
    for step in rolled(guards, np.zeros(STEPS + 20)):
        state = step.met.state
        assert step.band.raise_level[0] == np.ceil(state.busy[0] + state.waiting[0])


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 8),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_whatever_guards_are_set_no_match_is_ended(
    up: int, down: int, delay: int, floor: bool, seed: int
) -> None:
    guards = Guards(
        max_step_up=up, max_step_down=down, scale_down_delay=delay, floor_at_allocated=floor
    )
    targets = np.random.default_rng(seed).uniform(0, 120, STEPS + 20)
    for step in rolled(guards, targets, least=10, most=90):
        acted, state = step.acted, step.met.state
        assert acted.removed[0] <= state.idle[0] + 1e-9
        assert acted.launched[0] * acted.removed[0] == 0
        assert acted.told[0] == state.position[0] + acted.launched[0] - acted.removed[0]
        assert acted.state.position[0] == acted.told[0]
        assert acted.launched[0] == 0 or acted.told[0] <= 90


def test_a_scheduled_floor_is_up_when_the_event_starts() -> None:
    """An event at 02:30 needs 80 servers; a row is a minute, and a start takes twelve."""
    event = ScheduledFloor("30 2 * * *", ZoneInfo("UTC"), timedelta(hours=1), 80)
    rows = np.arange(300)
    history = History(60.0 * rows, np.full(300, 20.0), 60.0)
    parameters = FleetParameters(min_servers=0, max_servers=200)
    fleet = fleet_of(parameters, Lobby(), Guards(scheduled_floors=(event,)), history)
    starts = Starts(np.full((1, 250), 12.0), np.zeros(1, dtype=np.int64), 2)
    steps = list(
        roll_out(TargetRule(history.demands), history.demands, starts, np.array([10]), 250, fleet)
    )
    up = {row: step.met.state.up[0] for row, step in enumerate(steps, start=10)}
    assert up[150] >= 0.95 * 80, "but for starts that fail"
    assert up[120] < 40
    assert up[239] < 40, "and it ends"


def test_guards_act_on_each_lane_separately() -> None:
    guards = LobbyGuards(0, 100, Guards(max_step_up=2, scale_down_delay=3))
    state = opening(np.array([10.0, 40.0]))
    memory = guards.begin(2)
    wanted = Band(np.array([30.0, 20.0]), np.array([30.0, 20.0]))
    rows = np.zeros(2, dtype=np.int64)
    memory, _, first = guards.act(state, wanted, rows, memory)
    assert first.told.tolist() == [30, 40], "nothing was told before: only busy servers stay"
    memory, _, second = guards.act(first.state, Band(wanted[0] + 9, wanted[1] + 9), rows, memory)
    assert second.told.tolist() == [32, 40]
    assert memory.wanted.shape == (2, 2)
