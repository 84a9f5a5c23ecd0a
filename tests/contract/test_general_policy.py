"""The general policy that comes with the package: whole, without a scale, and made by a command."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from shared.core.parameters import FleetParameters
from shared.learning.export.agreement import random_observations
from shared.learning.models.ensemble import MEMBERS
from shared.learning.models.network import module_of
from shared.learning.models.pretrained import (
    NETS,
    initialised_from,
    pretrained_module,
    pretrained_nets,
)
from shared.policies.runtime import (
    PRETRAINED,
    PRETRAINED_STORE,
    FleetPolicy,
    RulePolicy,
    first_action,
    initial_policy,
    pretrained_manifest,
)
from shared.policies.store import LITERT_MODEL, SAVED_MODEL

PARAMETERS = FleetParameters(observation="calendar")
SERVERS = ("demand", "target", "mean", "change", "day_ago", "week_ago")


def seen(parameters=PARAMETERS):
    rows = random_observations(parameters.observation_fields, parameters, np.random.default_rng(1))
    return rows[:64]


def test_what_comes_with_the_package_is_whole():
    manifest = pretrained_manifest(PARAMETERS)
    assert manifest is not None
    assert manifest.fleet == manifest.kind == PRETRAINED
    for name in (LITERT_MODEL, NETS, f"{SAVED_MODEL}/saved_model.pb"):
        assert PRETRAINED_STORE.read(manifest, name), "read() checks the sha256"
    assert manifest.scores["held_out_cost"] < manifest.scores["held_out_rule_cost"]


def test_the_nets_that_fleets_begin_from_are_those_that_serve():
    module, policy = pretrained_module(PARAMETERS), initial_policy(PARAMETERS)
    rows = seen()
    served = np.array([[first_action(policy, row)] for row in rows])
    # The module clips to the fleet's highest action, the platform does so to the target.
    np.testing.assert_allclose(module.actions(rows), np.clip(served, 0.0, 1.0), atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 3.0, 40.0])
def test_a_fleet_of_another_size_is_decided_for_alike(scale):
    larger = replace(PARAMETERS, max_servers=100 * scale, action_factor=100 * scale)
    usual, policy = initial_policy(PARAMETERS), initial_policy(larger)
    in_servers = np.array([field.startswith(SERVERS) for field in PARAMETERS.observation_fields])
    for row in seen():
        scaled = np.where(in_servers, scale * row, row)
        assert first_action(policy, scaled) == pytest.approx(
            first_action(usual, row), rel=1e-3, abs=1e-3
        )


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        (PARAMETERS, FleetPolicy),
        (FleetParameters(observation="notebook"), RulePolicy),
        (replace(PARAMETERS, history_len=3), RulePolicy),
    ],
)
def test_it_serves_where_its_observation_fits(parameters, kind):
    assert isinstance(initial_policy(parameters), kind)
    assert (pretrained_nets(parameters) is None) == (kind is RulePolicy)


def test_it_serves_a_longer_lead_time_too_and_no_learning_begins_from_it_there():
    longer = replace(PARAMETERS, history_len=7)
    policy = initial_policy(longer)
    assert isinstance(policy, FleetPolicy)
    assert policy.lead_steps == 6
    assert pretrained_nets(longer) is None


def test_half_of_a_fleets_nets_begin_from_it():
    untrained = module_of(PARAMETERS, seed=0).get_state()
    general = pretrained_nets(PARAMETERS)
    begun = initialised_from(untrained, general)
    for name, weights in general.items():
        np.testing.assert_array_equal(begun[name][: MEMBERS // 2], weights[: MEMBERS // 2])
        np.testing.assert_array_equal(begun[name][MEMBERS // 2 :], untrained[name][MEMBERS // 2 :])
    np.testing.assert_array_equal(
        initialised_from(untrained, None)["nets.first"], untrained["nets.first"]
    )


def test_the_command_makes_it_again(monkeypatch, tmp_path):
    """A small one: twice the same from the same seed, and better than the plain rule."""
    from shared.learning import pretraining

    monkeypatch.setattr(pretraining, "SERIES", 20)
    monkeypatch.setattr(pretraining, "UPDATES", 400)
    learnt = [pretraining.pretrain(5, seed=2) for _ in range(2)]
    first, again = (one.module.get_state() for one in learnt)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert learnt[0].scores["held_out_cost"] < learnt[0].scores["held_out_rule_cost"]

    out = tmp_path / "general"
    answer = CliRunner().invoke(app, ["train", "--demand", "synthetic", "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    names = {path.name for path in out.iterdir()}
    assert names == {"policy.json", LITERT_MODEL, NETS, "tf-model"}


@pytest.mark.parametrize("option", ["--seconds", "--steps", "--peak-servers"])
def test_synthetic_demand_takes_no_options_of_recorded_one(option, tmp_path):
    command = ["train", "--demand", "synthetic", "--out", str(tmp_path / "out"), option, "5"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code != 0
    assert "--demand synthetic takes --out" in str(answer.exception)
    assert not (tmp_path / "out").exists()
