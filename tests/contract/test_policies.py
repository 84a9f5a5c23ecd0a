"""What every policy does, the plain rule and a learnt one alike; and what can't be one."""

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core.parameters import FleetParameters
from shared.core.rules import trend
from shared.errors import PolicyCorrupt, PolicyMissing, PolicyUnfit
from shared.messages import PolicyManifest
from shared.policies.runtime import (
    FleetPolicy,
    RulePolicy,
    experts_actions,
    first_action,
    load_policy,
    plans_short,
)
from shared.policies.store import LITERT_MODEL, PolicyStore
from tests.policies import OneByOne

MODEL = Path(__file__).parents[1] / "data" / "mean10.tflite"
"""Ten numbers in, a hundredth of their mean out."""
PARAMETERS = FleetParameters()
OBSERVATIONS = st.lists(st.floats(0, 1e6), min_size=10, max_size=10)


def publish(store, parameters=PARAMETERS, model=None, **changes):
    """Publish a version `v1` of fleet `eu`, trained for these parameters."""
    made = datetime(2026, 11, 22, tzinfo=UTC)
    named = {"version": "v1", "fleet": "eu", "created_at": made}
    with store.writing("eu", "v1") as folder:
        (folder / LITERT_MODEL).write_bytes(MODEL.read_bytes() if model is None else model)
        return store.publish(PolicyManifest.draft(parameters, **(named | changes)), folder)


@pytest.fixture
def store(tmp_path):
    return PolicyStore.at(tmp_path)


@pytest.fixture(params=["rule", "learnt"])
def policy(request, store):
    if request.param == "rule":
        return RulePolicy(PARAMETERS)
    publish(store)
    return load_policy(store, "eu", "v1", PARAMETERS)


class TestEveryPolicy:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(observation=OBSERVATIONS)
    def test_answers_a_finite_number(self, policy, observation):
        action = first_action(policy, observation)
        assert type(action) is float
        assert math.isfinite(action)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(observation=OBSERVATIONS, between=OBSERVATIONS)
    def test_answers_the_same_whatever_it_was_asked_between(self, policy, observation, between):
        first = first_action(policy, observation)
        first_action(policy, between)
        assert first_action(policy, observation) == first

    def test_leaves_the_observation_as_it_was(self, policy):
        observation = [float(n) for n in range(10)]
        first_action(policy, observation)
        assert observation == [float(n) for n in range(10)]

    def test_takes_tuples_lists_and_arrays(self, policy):
        answers = {first_action(policy, kind([20.0] * 10)) for kind in (tuple, list, np.array)}
        assert len(answers) == 1

    def test_looks_at_what_it_is_given(self, policy):
        assert first_action(policy, [20.0] * 10) != first_action(policy, [60.0] * 10)

    def test_has_a_name_and_says_whether_it_learnt(self, policy):
        assert isinstance(policy.version, str)
        assert policy.version
        assert isinstance(policy.learnt, bool)


def test_the_rule_asks_for_its_target_in_actions():
    parameters = FleetParameters(action_factor=80.0)
    demands, targets = [20.0, 22.0, 21.0, 25.0, 24.0], [90.0] * 5
    action = first_action(RulePolicy(parameters), demands + targets)
    assert action * 80.0 == pytest.approx(float(trend(demands, parameters)))


def test_a_learnt_policy_answers_what_its_model_says(store):
    publish(store)
    policy = load_policy(store, "eu", "v1", PARAMETERS)
    assert first_action(policy, [float(n) for n in range(10)]) == pytest.approx(0.045)
    assert (policy.version, policy.learnt) == ("v1", True)


def test_the_rule_is_not_learnt():
    assert not RulePolicy(PARAMETERS).learnt


def test_a_version_that_is_not_there(store):
    publish(store)
    with pytest.raises(PolicyMissing, match="'v2'"):
        load_policy(store, "eu", "v2", PARAMETERS)


@pytest.mark.parametrize(
    "fleet_now",
    [
        FleetParameters(min_servers=5.0),
        FleetParameters(min_servers=60.0),
        FleetParameters(max_servers=50.0),
        FleetParameters(max_servers=200.0),
        FleetParameters(max_servers=100_000.0),
        FleetParameters(action_factor=80.0),
        FleetParameters(max_servers=400.0, action_factor=400.0),
    ],
)
@pytest.mark.parametrize("servers", [45.0, 130.0])
def test_a_policy_is_kept_where_only_limits_change(store, fleet_now, servers):
    """It says as many servers as before; the fleet's limits are for those who make targets."""
    publish(store, exploration=0.05)
    kept = load_policy(store, "eu", "v1", fleet_now)
    action = first_action(kept, [servers] * 10)
    assert action * fleet_now.action_factor == pytest.approx(servers, rel=1e-5)
    assert kept.exploration * fleet_now.action_factor == pytest.approx(5.0)
    assert (kept.version, kept.fields) == ("v1", PARAMETERS.observation_fields)
    assert plans_short(kept, fleet_now) is None


def test_a_policy_made_for_a_shorter_lead_time_is_kept_and_it_is_said(store):
    publish(store)
    longer = FleetParameters(history_len=7)
    kept = load_policy(store, "eu", "v1", longer)
    assert (kept.lead_steps, longer.lead_steps) == (6, 8)
    assert "plans 6 steps ahead" in plans_short(kept, longer)
    assert first_action(kept, [50.0] * 10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("fleet_now", "made_for", "says"),
    [
        (
            {"history_len": 3},
            {},
            r"HISTORY_LEN=5 and the fleet has 3: .* next training makes",
        ),
        ({}, {"observation": "calendar"}, "OBSERVATION=notebook hides it: set calendar"),
        ({"observation": "calendar"}, {"history_len": 7}, "HISTORY_LEN=7 and the fleet has 5"),
    ],
)
def test_a_policy_that_needs_to_see_more_is_refused_in_one_short_line(
    store, fleet_now, made_for, says
):
    publish(store, FleetParameters(**made_for))
    with pytest.raises(PolicyUnfit, match=says) as refused:
        load_policy(store, "eu", "v1", FleetParameters(**fleet_now))
    assert str(refused.value).startswith("policy v1 ")
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)
    assert "demand[" not in str(refused.value)


def test_a_policy_of_unknown_fields_is_refused(store):
    publish(store, observation_fields=("demand[-1]", "moon"))
    with pytest.raises(PolicyUnfit, match="has an observation that no fleet has"):
        load_policy(store, "eu", "v1", PARAMETERS)


def test_a_manifest_of_limits_that_contradict_each_other_is_refused(store):
    publish(store, min_servers=200.0)
    with pytest.raises(PolicyCorrupt, match="min_servers 200 and max_servers 100 are not a range"):
        load_policy(store, "eu", "v1", PARAMETERS)


class TestAboveTheCeiling:
    """What a graph that clips says once its fleet may have more servers than it clips at."""

    class Artefact(OneByOne):
        """Three experts that add a constant to a part of the last demand; cut off as graphs are."""

        def __init__(self, ceiling=1.0):
            self._ceiling = ceiling
            self.asked = 0

        def answers(self, observation):
            self.asked += 1
            last = observation[4] / 100
            free = (1.2 * last, 0.9 * last + 0.05, last - 0.04)
            return tuple(min(max(one, 0.0), self._ceiling) for one in free)

    def policy(self, fleet_now, artefact):
        experts = {"a": 0.5, "b": 0.25, "c": 0.25}
        draft = PolicyManifest.draft(
            PARAMETERS, version="v1", fleet="eu", created_at=datetime.now(UTC), experts=experts
        )
        return FleetPolicy(draft, fleet_now, lambda: artefact)

    @pytest.mark.parametrize("servers", [10.0, 83.0, 84.0, 104.0, 130.0, 150.0, 900.0])
    def test_it_says_what_it_would_without_one(self, servers):
        policy = self.policy(FleetParameters(max_servers=1000.0), self.Artefact())
        free = self.Artefact(ceiling=1e9).answers([servers] * 10)
        assert experts_actions(policy, [servers] * 10) == pytest.approx(free)

    def test_it_says_so_by_the_fleets_own_factor(self):
        fleet_now = FleetParameters(max_servers=150.0, action_factor=150.0)
        answers = experts_actions(self.policy(fleet_now, self.Artefact()), [130.0] * 10)
        free = self.Artefact(ceiling=1e9).answers([130.0] * 10)
        assert [150 * one for one in answers] == pytest.approx([100 * one for one in free])

    @pytest.mark.parametrize(
        ("max_servers", "servers"), [(150.0, 80.0), (100.0, 130.0), (50.0, 130.0)]
    )
    def test_it_is_asked_once_where_the_ceiling_is_not_in_the_way(self, max_servers, servers):
        artefact = self.Artefact()
        policy = self.policy(FleetParameters(max_servers=max_servers), artefact)
        experts_actions(policy, [servers] * 10)
        assert artefact.asked == 1

    def test_a_constant_stays_what_it_is(self):
        class Constant(OneByOne):
            def answers(self, _observation):
                return (1.0, 1.0, 1.0)

        policy = self.policy(FleetParameters(max_servers=500.0), Constant())
        assert experts_actions(policy, [400.0] * 10) == (1.0, 1.0, 1.0)

    def test_what_is_no_number_stays_none(self):
        class Broken(OneByOne):
            def answers(self, _observation):
                return (math.nan, math.inf, 1.0)

        policy = self.policy(FleetParameters(max_servers=500.0), Broken())
        answers = experts_actions(policy, [400.0] * 10)
        assert not all(map(math.isfinite, answers))


def test_another_price_or_reward_does_not_change_what_a_policy_can_run_on(store):
    publish(store)
    fleet_now = FleetParameters(over_prov_factor=9.0, reward="notebook")
    assert load_policy(store, "eu", "v1", fleet_now).version == "v1"


def test_a_folder_copied_to_another_name_is_refused(store):
    publish(store)
    store.files.root.joinpath("eu", "v1").rename(store.files.root.joinpath("eu", "v2"))
    with pytest.raises(PolicyCorrupt, match="policy v2"):
        load_policy(store, "eu", "v2", PARAMETERS)


def test_a_model_of_another_shape_is_refused(store):
    six = FleetParameters(history_len=6)
    publish(store, six)
    with pytest.raises(PolicyCorrupt, match=r"maps .*10.* its manifest says .*12"):
        load_policy(store, "eu", "v1", six)


@pytest.mark.parametrize(
    "model",
    [b"", b"not a model at all", b"\0" * 1000, MODEL.read_bytes()[:40]],
    ids=["empty", "text", "zeros", "cut short"],
)
def test_what_is_not_a_model_is_refused(store, model):
    publish(store, model=model)
    with pytest.raises(PolicyCorrupt, match="not a LiteRT model"):
        load_policy(store, "eu", "v1", PARAMETERS)


def test_a_model_that_was_tampered_with_is_refused_before_it_is_loaded(store):
    publish(store)
    path = store.files.root.joinpath("eu", "v1") / LITERT_MODEL
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PolicyCorrupt, match="does not match its sha256"):
        load_policy(store, "eu", "v1", PARAMETERS)
