"""The accounting of a replay: which target meets which demand, and what it costs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.dynamics import FleetState, initial_state, observe, step
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import decide, limits_of, replay, score_after
from tests.policies import OneByOne

SMALL = FleetParameters(min_servers=1.0, max_servers=20.0, action_factor=10.0, history_len=2)


class Acting(OneByOne):
    """A policy of one expert."""

    lead_steps = SMALL.lead_steps

    def __init__(self, act, fields=SMALL.observation_fields):
        self._act = act
        self.fields = fields

    def answers(self, observation):
        return (self._act(np.array(observation)),)


NEVER = 10**9
"""Since when a policy serves that does not adapt."""


def history(demands):
    return History(np.arange(len(demands)) * 60.0, np.asarray(demands, dtype=float), 60.0)


def test_a_decision_is_the_next_target_and_the_allocation_history_len_later():
    played = replay(np.array([3.0, 4.0, 5.0, 60.0, 0.0]), SMALL)
    assert played.targets.tolist() == [1, 3, 4, 5, 20]
    assert played.allocations.tolist() == [1, 1, 1, 3, 4]


def test_costs_by_hand():
    """Scored from row 3: allocations 3 and 4 meet 5 and 3: short by 2, idle by 1."""
    scored = score_after(
        np.array([3.0, 4.0, 5.0, 60.0, 0.0]), np.array([9.0, 9.0, 9.0, 5.0, 3.0]), 3, SMALL
    )
    assert scored.steps == 2
    assert scored.cost_per_step == pytest.approx((5 * 2 + 1) / 2)
    assert scored.under_steps_pct == 50
    assert (scored.unserved_server_steps, scored.idle_server_steps) == (2, 1)


def test_more_steps_to_come_up_than_there_are():
    assert replay(np.array([5.0]), SMALL).allocations.tolist() == [1.0]


def test_limits_leave_room_to_grow_and_exist_without_demand():
    assert limits_of(np.array([3.0, 9.5])) == (0, 30, 10)
    assert limits_of(np.zeros(3)) == (0, 3, 1)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=30))
def test_deciding_over_a_series_is_stepping_the_environment(demands):
    """A policy that looks at all of its observation asks for the same, step by step."""

    def act(observation):
        return float(observation @ np.linspace(0.01, 0.03, 4))

    decisions = decide(Acting(act), history(demands), SMALL, since=NEVER)
    state = initial_state(SMALL)
    action = SMALL.min_servers / SMALL.action_factor  # the target of the first step
    for demand, decision in zip(demands, decisions, strict=True):
        state = step(state, action, demand, SMALL).state
        action = act(observe(FleetState(state.demands, state.targets)))
        assert decision == pytest.approx(np.clip(action * 10, 1, 20))


def test_a_policy_does_not_see_the_future():
    fields = FleetParameters(observation="calendar").observation_fields
    rng = np.random.default_rng(0)
    demands = rng.uniform(0, 20, 100)

    def act(observation):
        return float(np.nansum(observation)) / 1e4

    parameters = FleetParameters(min_servers=0.0)
    before = decide(Acting(act, fields), history(demands), parameters)
    demands[60:] = 3.0
    after = decide(Acting(act, fields), history(demands), parameters)
    assert before[:60].tolist() == after[:60].tolist()
    assert before[60:].tolist() != after[60:].tolist()


def test_part_of_the_rows_sees_all_of_the_history():
    demands = np.arange(20.0)
    seen = []
    decide(
        Acting(lambda observation: seen.append(observation.tolist()) or 0.5),
        history(demands),
        SMALL,
        np.arange(10, 12),
    )
    assert seen == [[9, 10, 1, 1], [10, 11, 1, 5]]
