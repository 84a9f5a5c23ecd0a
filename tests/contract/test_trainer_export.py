"""A short learn gives an artefact that the services load and that answers as torch does."""

import shutil

import numpy as np
import pytest

from shared.core.curves import sine1h
from shared.core.fields import from_notebook
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.errors import PolicyDisagrees
from shared.learning.budget import Budget, TrainingOptions
from shared.messages import PolicyManifest, utc_now
from shared.policies.runtime import first_action, load_policy
from shared.policies.store import CHECKPOINT, LITERT_MODEL, SAVED_MODEL, PolicyStore
from tests.policies import LITTLE

PARAMETERS = FleetParameters()
STEPS = 16_384
"""Not by time: so it is the same policy however busy the machine is."""


def options(seed=0, budget=LITTLE):
    return TrainingOptions(0.9, seed, budget)


def recorded(demand):
    from shared.recorded_demand import Recorded

    return Recorded.unbroken(History(65.0 * np.arange(len(demand)), demand, 65.0))


@pytest.fixture(scope="module")
def demand():
    return np.array([sine1h(k, 90.0) for k in range(600)])


@pytest.fixture(scope="module")
def learnt(ray_running, demand, tmp_path_factory):
    from shared.learning.training import train

    checkpoint = tmp_path_factory.mktemp("learnt") / CHECKPOINT
    result = train(
        recorded(demand), PARAMETERS, options(budget=Budget(60.0, steps=STEPS)), checkpoint
    )
    return result, checkpoint


@pytest.fixture(scope="module")
def exported(learnt, tmp_path_factory):
    from shared.learning.export.writer import export

    folder = tmp_path_factory.mktemp("exported")
    export(learnt[0].module, folder)
    return folder


@pytest.fixture
def artefact(exported, tmp_path):
    """The artefact's files, for a test to spoil."""
    return shutil.copytree(exported, tmp_path / "artefact")


def test_it_has_replayed_as_asked_and_what_serves_beats_the_rule(learnt):
    scores = learnt[0].scores
    assert learnt[0].environment_steps >= STEPS
    assert scores["held_out_steps"] > 50
    assert scores["held_out_cost"] < scores["held_out_rule_cost"] / 2


def test_the_checkpoint_holds_the_weights(learnt):
    from ray.rllib.core.rl_module.rl_module import RLModule

    result, checkpoint = learnt
    path = checkpoint / "learner_group" / "learner" / "rl_module" / "default_policy"
    restored = RLModule.from_checkpoint(str(path))
    observations = np.random.default_rng(0).uniform(10, 100, (16, 10))
    np.testing.assert_array_equal(
        restored.actions(observations), result.module.actions(observations)
    )


def test_the_services_load_it_and_answer_as_torch_does(learnt, exported, tmp_path):
    store = PolicyStore.at(tmp_path)
    manifest = PolicyManifest.draft(
        PARAMETERS, version="v1", fleet="default", created_at=utc_now(), scores=learnt[0].scores
    )
    with store.writing("default", "v1") as folder:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        store.publish(manifest, folder)
    policy = load_policy(store, "default", "v1", PARAMETERS)
    observations = np.random.default_rng(1).uniform(10, 100, (64, 10))
    answers = [first_action(policy, observation.tolist()) for observation in observations]
    expected = learnt[0].module.actions(observations)[:, 0]
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert len(set(answers)) > 32, "a policy without weights answers alike"


def test_all_forms_agree(learnt, exported):
    from shared.learning.export.agreement import TOLERANCE, check_agreement

    rng = np.random.default_rng(2)
    assert check_agreement(learnt[0].module, exported, PARAMETERS, rng) <= TOLERANCE


def test_the_saved_model_has_the_signature_that_servers_expect(exported):
    import tensorflow as tf

    signature = tf.saved_model.load(str(exported / SAVED_MODEL)).signatures["serving_default"]
    (inputs,) = signature.structured_input_signature[1].values()
    assert inputs.name == "observation"
    assert inputs.shape.as_list() == [None, 10]
    assert signature.structured_outputs["policy"].shape.as_list() == [None, 1]


def test_other_weights_in_the_litert_file_are_refused(learnt, artefact):
    from shared.learning.export.agreement import check_agreement

    content = bytearray((artefact / LITERT_MODEL).read_bytes())
    # LiteRT keeps a layer's weights by output: those of the first hidden unit of the first net.
    weights = learnt[0].module.nets.first.detach()[0, :, 0].numpy().copy().tobytes()
    at = content.find(weights[:64])
    assert at > 0, "the file holds the weights"
    content[at : at + 64] = np.full(16, 3.0, dtype=np.float32).tobytes()
    (artefact / LITERT_MODEL).write_bytes(content)
    with pytest.raises(PolicyDisagrees, match="LiteRT and the policy differ"):
        check_agreement(learnt[0].module, artefact, PARAMETERS, np.random.default_rng(0))


def test_a_model_that_has_moved_on_is_refused(learnt, artefact):
    """The SavedModel of the weights before is another policy."""
    import torch

    from shared.learning.export.agreement import check_agreement

    module = learnt[0].module
    state = module.get_state()
    try:
        with torch.no_grad():
            module.nets.last_bias += 0.1
        with pytest.raises(PolicyDisagrees, match="SavedModel and the policy differ"):
            check_agreement(module, artefact, PARAMETERS, np.random.default_rng(0))
    finally:
        module.set_state(state)


def test_a_file_that_is_no_model_is_refused(learnt, artefact):
    from shared.learning.export.agreement import check_agreement

    (artefact / LITERT_MODEL).write_bytes(b"not a model")
    with pytest.raises(PolicyDisagrees, match="LiteRT can't be run"):
        check_agreement(learnt[0].module, artefact, PARAMETERS, np.random.default_rng(0))


@pytest.mark.parametrize("reward", ["asymmetric", "notebook"])
def test_limits_above_the_action_factor_are_in_reach(ray_running, reward):
    """max_servers 200 at an action_factor of 100: the policy may answer 2.0."""
    from shared.learning.training import train

    parameters = FleetParameters(max_servers=200.0, reward=reward)
    demand = np.tile(np.linspace(150.0, 190.0, 40), 5)
    result = train(recorded(demand), parameters, options())
    actions = result.module.actions(np.full((1, 10), 180.0))
    assert 1.0 < float(actions[0, 0]) <= 2.0


def test_a_calendar_policy_is_exported_with_what_is_out_of_reach(ray_running, tmp_path):
    """Two days of demand: last week is NaN. All forms agree, and the notebook's numbers do."""
    from shared.core.replay import observations_after
    from shared.learning import training as learning
    from shared.learning.export.agreement import TOLERANCE, check_agreement, run_litert
    from shared.learning.export.writer import export
    from shared.recorded_demand import Recorded

    parameters = FleetParameters(observation="calendar")
    rows = np.arange(300)
    history = History(600.0 * rows, 50 + 30 * np.sin(2 * np.pi * rows / 144), 600.0)
    policy = learning.train(Recorded.unbroken(history), parameters, options()).policy
    assert list(policy.experts) == ["nets", "rule:seasonal"]
    export(policy, tmp_path)
    rng = np.random.default_rng(0)
    assert check_agreement(policy, tmp_path, parameters, rng) <= TOLERANCE
    seen = observations_after(history, parameters.observation_fields, parameters, rows)
    assert np.isnan(seen).any(axis=1).all()
    answers = run_litert(tmp_path, seen.astype(np.float32))
    np.testing.assert_allclose(answers, policy.actions(seen), atol=TOLERANCE)
    ten = np.array(from_notebook([50.0] * 10, parameters.observation_fields))
    assert 0.1 <= policy.actions(ten[np.newaxis])[0, 0] <= 1.0
    # Targets do not matter to a policy.
    asked = seen.copy()
    asked[:, -parameters.history_len :] = 33.0
    np.testing.assert_array_equal(policy.actions(asked), policy.actions(seen))
