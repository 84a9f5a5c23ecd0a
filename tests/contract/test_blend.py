"""Nets and a rule side by side: one artefact, two answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.replay import decide, observations_after
from shared.errors import PolicyCorrupt
from shared.learning.models.mixture import OF_NETS, Mixture, rule_expert, with_rule
from shared.learning.models.network import module_of
from shared.messages import PolicyManifest, utc_now
from shared.policies.runtime import FleetPolicy, LearntPolicy, first_action
from shared.policies.store import LITERT_MODEL

PARAMETERS = FleetParameters(observation="calendar")
ROWS = np.arange(500)
"""Three days and a half: a day ago is seen, a week ago is not."""
HISTORY = History(
    600.0 * ROWS,
    50 + 30 * np.sin(2 * np.pi * ROWS / 144) + np.random.default_rng(0).normal(0, 2, len(ROWS)),
    600.0,
)


@pytest.fixture(scope="module")
def blend():
    import torch

    nets = module_of(PARAMETERS, seed=0)
    with torch.no_grad():
        nets.nets.last.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    rule = rule_expert(HISTORY, PARAMETERS)
    assert rule is not None
    return with_rule(nets, rule)


@pytest.fixture(scope="module")
def exported(blend, tmp_path_factory) -> Path:
    from shared.learning.export.writer import export

    folder = tmp_path_factory.mktemp("blend")
    export(blend, folder)
    return folder


def served(exported, experts):
    manifest = PolicyManifest.draft(
        PARAMETERS, version="v1", fleet="default", created_at=utc_now(), experts=experts
    )
    return LearntPolicy((exported / LITERT_MODEL).read_bytes(), manifest)


def test_the_notebooks_observation_has_no_field_for_the_rule():
    assert rule_expert(HISTORY, FleetParameters()) is None


def test_all_forms_agree(blend, exported):
    from shared.learning.export.agreement import TOLERANCE, check_agreement, run_saved_model

    rng = np.random.default_rng(0)
    assert check_agreement(blend, exported, PARAMETERS, rng) <= TOLERANCE
    seen = observations_after(HISTORY, PARAMETERS.observation_fields, PARAMETERS, ROWS).astype(
        np.float32
    )
    nets, rule = blend.actions(seen).T
    assert np.abs(nets - rule).max() > 0.01, "they are of two minds"
    blended = run_saved_model(exported, seen)[:, 0]
    np.testing.assert_allclose(blended, OF_NETS * nets + (1 - OF_NETS) * rule, atol=TOLERANCE)


def test_the_services_hear_both_and_decide_as_the_trainer_says(blend, exported):
    policy = served(exported, blend.experts)
    seen = observations_after(HISTORY, PARAMETERS.observation_fields, PARAMETERS, ROWS[-1:])
    answers = policy.actions(seen)[0]
    np.testing.assert_allclose(answers, blend.actions(seen)[0], atol=1e-5)
    assert first_action(policy, seen[0]) == pytest.approx(0.8 * answers[0] + 0.2 * answers[1])
    stepped = decide(policy, HISTORY, PARAMETERS, since=50)
    at_once = decide(blend, HISTORY, PARAMETERS, since=50)
    np.testing.assert_allclose(stepped, at_once, atol=1e-3)
    plain = decide(blend, HISTORY, PARAMETERS, since=len(ROWS))
    assert np.abs(at_once[60:] - plain[60:]).max() > 1


@pytest.mark.parametrize("max_servers", [150.0, 1_000.0])
def test_above_its_ceiling_it_says_what_one_of_higher_limits_would(blend, exported, max_servers):
    """The graph clips at 100 servers: nets and rule alike are as if exported for the new limit."""
    raised = replace(PARAMETERS, max_servers=max_servers)
    nets = module_of(raised, seed=0)
    nets.set_state(blend.module.get_state())
    rules = {name: replace(rule, parameters=raised) for name, rule in blend.rules.items()}
    expected = Mixture(nets, rules, blend.experts)
    grown = History(HISTORY.times, 0.012 * max_servers * HISTORY.demands, 600.0)
    seen = observations_after(grown, raised.observation_fields, raised, ROWS)
    artefact = served(exported, blend.experts)
    policy = FleetPolicy(artefact.manifest, raised, lambda: artefact)
    answers = policy.actions(seen)
    assert (answers.max(axis=0) > 1.2).all(), "both are above what the graph can say"
    # In the limits of the higher one, which clips as well; within a hundredth of a server.
    np.testing.assert_allclose(
        np.minimum(answers, raised.highest_action), expected.actions(seen), atol=1e-4
    )
    assert artefact.actions(seen).max() == 1.0


def test_a_manifest_that_names_another_number_of_experts_is_refused(exported):
    with pytest.raises(PolicyCorrupt, match=r"maps .* to \[\[1, 2\]\], its manifest says"):
        served(exported, {})
