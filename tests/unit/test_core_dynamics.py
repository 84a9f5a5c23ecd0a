"""How a fleet moves: limits, the lead time, and one fleet or many giving the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.dynamics import FleetState, initial_state, observe, step, target_of
from shared.core.parameters import FleetParameters

ACTIONS = st.floats(-2.0, 3.0)
DEMANDS = st.floats(-1e4, 1e6)
EPISODES = st.lists(st.tuples(ACTIONS, DEMANDS), min_size=1, max_size=30)


@st.composite
def fleets(draw):
    low = draw(st.integers(0, 50))
    return FleetParameters(
        min_servers=float(low),
        max_servers=float(low + draw(st.integers(0, 500))),
        action_factor=draw(st.floats(0.5, 1_000)),
        over_prov_factor=draw(st.floats(0, 20)),
        history_len=draw(st.integers(2, 8)),
        reward=draw(st.sampled_from(("asymmetric", "notebook"))),
    )


def played(parameters, episode):
    """Outcomes of an episode of (action, demand)."""
    state, outcomes = initial_state(parameters), []
    for action, demand in episode:
        outcome = step(state, action, demand, parameters)
        outcomes.append(outcome)
        state = outcome.state
    return outcomes


@given(fleets(), EPISODES)
def test_targets_demands_and_allocations_stay_within_the_limits(parameters, episode):
    for outcome in played(parameters, episode):
        numbers = (outcome.target, outcome.demand, outcome.allocation, observe(outcome.state))
        for number in numbers:
            assert np.all(number >= parameters.min_servers)
            assert np.all(number <= parameters.max_servers)
        assert np.isfinite(outcome.reward)


@given(fleets(), EPISODES)
def test_the_allocation_is_the_target_of_history_len_steps_ago(parameters, episode):
    outcomes = played(parameters, episode)
    before_the_first = [parameters.min_servers] * parameters.history_len
    expected = before_the_first + [float(outcome.target) for outcome in outcomes]
    found = [float(outcome.allocation) for outcome in outcomes]
    assert found == expected[: len(found)]


@given(fleets(), EPISODES)
def test_the_observation_holds_the_last_demands_then_the_last_targets(parameters, episode):
    outcomes = played(parameters, episode)
    start = [parameters.min_servers] * parameters.history_len
    demands = start + [float(outcome.demand) for outcome in outcomes]
    targets = start + [float(outcome.target) for outcome in outcomes]
    length = parameters.history_len
    assert observe(outcomes[-1].state).tolist() == demands[-length:] + targets[-length:]


@given(
    fleets(),
    st.integers(1, 4).flatmap(
        lambda fleets: st.lists(
            st.lists(st.tuples(ACTIONS, DEMANDS), min_size=fleets, max_size=fleets),
            min_size=1,
            max_size=12,
        )
    ),
)
def test_many_fleets_at_once_step_as_each_alone(parameters, episode):
    together = np.asarray(episode)
    batch = initial_state(parameters, (together.shape[1],))
    alone = [played(parameters, together[:, fleet]) for fleet in range(together.shape[1])]
    for k, row in enumerate(together):
        outcome = step(batch, row[:, 0], row[:, 1], parameters)
        for fleet, outcomes in enumerate(alone):
            single = outcomes[k]
            assert outcome.reward[fleet] == single.reward
            assert outcome.allocation[fleet] == single.allocation
            assert np.array_equal(observe(outcome.state)[fleet], observe(single.state))
        batch = outcome.state


@given(fleets(), EPISODES)
def test_the_same_inputs_give_the_same_outputs_and_stay_as_they_were(parameters, episode):
    state = played(parameters, episode)[-1].state
    before = observe(state).copy()
    first, second = (step(state, 0.5, 20.0, parameters) for _ in range(2))
    assert np.array_equal(observe(state), before)
    assert np.array_equal(observe(first.state), observe(second.state))
    assert first.reward == second.reward


def test_a_fleet_starts_with_both_histories_at_the_minimum():
    state = initial_state(FleetParameters(min_servers=7.0, history_len=3), (2,))
    assert observe(state).tolist() == [[7.0] * 6] * 2


def test_the_two_initial_histories_do_not_share_memory():
    state = initial_state(FleetParameters())
    state.demands[:] = 99.0
    assert state.targets.tolist() == [10.0] * 5


@pytest.mark.parametrize(
    ("action", "target"),
    [(0.5, 50.0), (1.0, 100.0), (0.0, 10.0), (-1.0, 10.0), (3.0, 100.0)],
)
def test_an_action_of_one_asks_for_action_factor_servers_within_the_limits(action, target):
    assert target_of(action, FleetParameters()) == target


def test_one_step_by_hand():
    parameters = FleetParameters(min_servers=0.0, max_servers=50.0, history_len=2)
    state = FleetState(demands=np.array([3.0, 4.0]), targets=np.array([8.0, 9.0]))
    outcome = step(state, 0.2, 6.0, parameters)
    assert (outcome.target, outcome.demand, outcome.allocation) == (20.0, 6.0, 8.0)
    assert outcome.reward == -2.0
    assert observe(outcome.state).tolist() == [4.0, 6.0, 9.0, 20.0]
