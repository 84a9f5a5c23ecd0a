"""What a policy learns while it serves: weights of its experts, and a margin."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.environment.step import Due, StepInput, step_fleet
from shared.core.adaptation import (
    FRESH,
    MAX_MARGIN,
    Adaptation,
    adapt,
    adapted_actions,
    skip_row,
    weights,
)
from shared.core.fields import notebook_fields
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import decide
from tests.policies import OneByOne

PARAMETERS = FleetParameters(min_servers=0.0, max_servers=300.0, action_factor=100.0)
LEAD = PARAMETERS.lead_steps
PRIOR = (0.8, 0.2)
RNG = np.random.default_rng(0)
STEPS = 3_000
DEMANDS = 50.0 + 10.0 * RNG.standard_normal(STEPS)
"""Nothing of it can be foreseen."""


def played(answers, demands=DEMANDS, prior=PRIOR, parameters=PARAMETERS):
    """Servers asked for after each row, for constant or given answers in servers."""
    rows = np.arange(len(demands))
    given = np.stack([np.broadcast_to(one, len(demands)) for one in answers], axis=1)
    factor = parameters.action_factor
    return factor * adapted_actions(given / factor, demands, rows, prior, parameters)


def short(asked, demands=DEMANDS, after=STEPS // 2):
    """Part of the steps in which demand was above what was asked for it."""
    met = demands[LEAD:][after - LEAD :]
    return float(np.mean(asked[after - LEAD : -LEAD] < met))


def test_before_any_outcome_the_prior_holds():
    asked = played([40.0, 80.0])
    assert asked[:LEAD].tolist() == pytest.approx([48.0] * LEAD)
    assert asked[LEAD] != asked[LEAD - 1]


@pytest.mark.parametrize("servers", [40.0, 50.0, 80.0])
def test_demand_comes_to_be_missed_in_one_step_of_six(servers):
    """That is what a missing server at the price of five idle ones is worth."""
    assert short(played([servers], prior=(1.0,))) == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize("price", [1.0, 20.0])
def test_the_price_of_a_missing_server_says_how_often(price):
    parameters = FleetParameters(
        min_servers=0.0, max_servers=300.0, action_factor=100.0, over_prov_factor=price
    )
    asked = played([50.0], prior=(1.0,), parameters=parameters)
    assert short(asked) == pytest.approx(1 / (1 + price), abs=0.02)


def test_whoever_does_better_of_late_is_listened_to():
    """The first expert knows the demand in the first half, the second one in the other."""
    ahead = np.concatenate((DEMANDS[LEAD:], DEMANDS[:LEAD]))
    half = STEPS // 2
    first = np.where(np.arange(STEPS) < half, ahead, 0.0)
    second = np.where(np.arange(STEPS) < half, 0.0, ahead)
    state, at = FRESH, {}
    for row, demand in enumerate(DEMANDS.tolist()):
        answers = (first[row] / 100, second[row] / 100)
        state, _ = adapt(state, demand, answers, PRIOR, PARAMETERS)
        at[row] = weights(state, PRIOR)
    assert at[half - 1][0] > 0.99
    assert at[STEPS - 1][1] > 0.95
    assert sum(at[STEPS - 1]) == pytest.approx(1.0)


def test_an_expert_is_not_listened_to_for_being_confident():
    """Both miss alike, so the weights stay near where they began."""
    noise = RNG.standard_normal((2, STEPS))
    state = FRESH
    for row, demand in enumerate(DEMANDS.tolist()):
        answers = (0.6 + noise[0, row] / 50, 0.6 + noise[1, row] / 50)
        state, _ = adapt(state, demand, answers, PRIOR, PARAMETERS)
    assert 0.5 < weights(state, PRIOR)[0] < 0.95


@given(st.lists(st.floats(0, 300), min_size=LEAD + 2, max_size=60), st.data())
def test_no_action_depends_on_demand_after_it(demands, data):
    known = data.draw(st.integers(1, len(demands) - 1))
    other = [*demands[:known], *(300.0 - demand for demand in demands[known:])]
    answers = [np.arange(len(demands), dtype=float), 20.0]
    one, two = (played(answers, np.array(series)) for series in (demands, other))
    assert one[:known].tolist() == two[:known].tolist()


@given(
    st.lists(st.floats(0, 300), min_size=1, max_size=60),
    st.lists(st.floats(-50, 400), min_size=2, max_size=2),
)
def test_the_margin_is_bounded_and_the_weights_stay_weights(demands, servers):
    state = FRESH
    for demand in demands:
        state, action = adapt(state, demand, [one / 100 for one in servers], PRIOR, PARAMETERS)
        assert np.isfinite(action)
        now = weights(state, PRIOR)
        assert sum(now) == pytest.approx(1.0)
        assert all(0.0 <= part <= 1.0 for part in now)
        assert -1.0 <= state.margin <= MAX_MARGIN
        assert len(state.pending) <= LEAD


def test_it_has_no_scale():
    large = FleetParameters(min_servers=0.0, max_servers=3000.0, action_factor=1000.0)
    here = played([40.0, 80.0])
    there = played([400.0, 800.0], demands=10 * DEMANDS, parameters=large)
    assert there == pytest.approx(10 * here)


def test_with_the_notebooks_reward_nothing_is_learnt():
    parameters = FleetParameters(reward="notebook")
    state, action = adapt(FRESH, 50.0, (0.4, 0.8), PRIOR, parameters)
    assert (state, action) == (FRESH, pytest.approx(0.48))


def test_held_demand_teaches_nothing():
    """Nobody answers after a row without demand, and what it would have met is let go."""
    state = FRESH
    for _ in range(LEAD):
        state, _ = adapt(state, 50.0, (0.1, 0.9), PRIOR, PARAMETERS)
    assert not state.outcomes
    held = state
    for _ in range(LEAD):
        held = skip_row(held, PARAMETERS)
    assert held.pending == ((),) * LEAD
    after, _ = adapt(held, 50.0, (0.1, 0.9), PRIOR, PARAMETERS)
    assert not after.outcomes
    taught, _ = adapt(state, 50.0, (0.1, 0.9), PRIOR, PARAMETERS)
    assert taught.outcomes == 1


def test_rows_that_are_missing_are_not_taken_for_steps():
    rows = np.array([0, 1, 2, 3, 4, 5, 9, 10])
    given = np.full((len(rows), 1), 0.1)
    taken = adapted_actions(given, np.full(20, 90.0), rows, (1.0,), PARAMETERS)
    assert taken.tolist() == [0.1] * len(rows)


def test_only_who_serves_adapts():
    before = played([40.0, 80.0])
    rows = np.arange(STEPS)
    given = np.full((STEPS, 2), (0.4, 0.8))
    later = 100 * adapted_actions(given, DEMANDS, rows, PRIOR, PARAMETERS, since=1_000)
    assert later[: 1_000 + LEAD].tolist() == pytest.approx([48.0] * (1_000 + LEAD))
    assert later[1_000 + LEAD] != before[1_000 + LEAD]
    alone = 100 * adapted_actions(given[1_000:], DEMANDS[1_000:], rows[:-1_000], PRIOR, PARAMETERS)
    assert later[1_000:].tolist() == alone.tolist()


class TwoMinds(OneByOne):
    """A learnt policy of two experts: what is needed now, and a lot more."""

    version = "v1"
    learnt = True
    exploration = 0.0
    experts: ClassVar = {"one": PRIOR[0], "other": PRIOR[1]}
    fields = notebook_fields(PARAMETERS.history_len)
    lead_steps = LEAD

    def answers(self, observation):
        last = float(observation[PARAMETERS.history_len - 1]) / 100
        return (last, 1.4 * last + 0.1)


def lived(demands, policies=None, parameters=None):
    record, commits = None, []
    policies = policies or [TwoMinds()] * len(demands)
    parameters = parameters or [PARAMETERS] * len(demands)
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    for number, (demand, policy, by) in enumerate(zip(demands, policies, parameters, strict=True)):
        due = Due(noon + timedelta(seconds=65 * number), 0)
        commits.append(step_fleet(StepInput("eu", record, policy, by, due, due.at, demand)))
        record = type(commits[-1].record).model_validate_json(commits[-1].record.model_dump_json())
    return commits


def test_a_live_fleet_adapts_as_a_backtest_does():
    """Through Redis' JSON and back at every step."""
    demands = DEMANDS[:200]
    live = [commit.decision.target for commit in lived(demands.tolist())]
    history = History(np.arange(200) * 65.0, demands, 65.0)
    assert live == pytest.approx(decide(TwoMinds(), history, PARAMETERS).tolist())
    plain = decide(TwoMinds(), history, PARAMETERS, since=200)
    assert live != pytest.approx(plain.tolist())


def test_what_is_learnt_goes_on_by_another_action_factor():
    """Nothing told depends on what an action of 1.0 is called."""

    class Renamed(TwoMinds):
        def answers(self, observation):
            return tuple(100 / 250 * one for one in super().answers(observation))

    demands = DEMANDS[:120].tolist()
    usual = lived(demands)
    other = replace(PARAMETERS, action_factor=250.0)
    changed = lived(
        demands,
        [TwoMinds()] * 60 + [Renamed()] * 60,
        [PARAMETERS] * 60 + [other] * 60,
    )
    told = [commit.decision.target for commit in changed]
    assert told == pytest.approx([commit.decision.target for commit in usual])
    assert changed[-1].record.adaptation.outcomes == 120 - LEAD


def test_answers_for_another_lead_time_do_not_wait_for_an_outcome():
    longer = replace(PARAMETERS, history_len=7)
    before = lived(DEMANDS[:30].tolist())[-1].record.adaptation
    commits = lived(DEMANDS[:31].tolist(), parameters=[PARAMETERS] * 30 + [longer])
    after = commits[-1].record.adaptation
    assert len(after.pending) == 1
    assert after._replace(pending=()) == before._replace(pending=())


def test_another_policy_is_learnt_of_anew():
    class Other(TwoMinds):
        version = "v2"

    policies = [TwoMinds()] * 50 + [Other()] * 3
    commits = lived(DEMANDS[:53].tolist(), policies)
    assert commits[49].record.adaptation.outcomes == 50 - LEAD
    assert commits[50].record.adaptation == Adaptation(
        pending=(TwoMinds().answers([DEMANDS[50]] * 10),)
    )
