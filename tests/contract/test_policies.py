"""What every policy does, the plain rule and a learnt one alike; and what can't be one."""

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core.baselines import trend
from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt, PolicyMissing
from shared.messages import PolicyManifest
from shared.policies import RulePolicy, first_action, load_policy
from shared.policy_store import LITERT_MODEL, PolicyStore

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
        FleetParameters(history_len=6),
        FleetParameters(min_servers=5.0),
        FleetParameters(max_servers=200.0),
        FleetParameters(action_factor=80.0),
    ],
    ids=["history_len", "min_servers", "max_servers", "action_factor"],
)
def test_a_policy_trained_for_other_settings_is_refused(store, fleet_now):
    publish(store)
    with pytest.raises(PolicyCorrupt, match=r"other settings .* train it again"):
        load_policy(store, "eu", "v1", fleet_now)


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
