"""Artefacts of the lobby's dynamics: they agree with the policy, and wrong ones are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.core.band_rule import NUMBERS
from shared.core.fields import from_notebook
from shared.core.forecasts import HORIZONS, LEVELS
from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt, PolicyDisagrees, PolicyUnfit
from shared.learning.lobby.policy import LobbyPolicy
from shared.learning.lobby.pretrained import pretrained_weights
from shared.learning.models.quantile_nets import QuantileNets
from shared.messages import LobbyRule, PolicyManifest, utc_now
from shared.policies.runtime import LearntPolicy, load_policy
from shared.policies.store import LITERT_MODEL, PolicyStore
from tests.conftest import Autopilot, PublishPolicy

PARAMETERS = FleetParameters(observation="calendar")
START = {number.name: number.start for number in NUMBERS}
WAVE = 40 + 25 * np.sin(np.arange(400) / 15) + np.random.default_rng(0).normal(0, 1, 400)


@pytest.fixture(scope="module")
def policy() -> LobbyPolicy:
    nets = QuantileNets(0)
    nets.set_state(pretrained_weights())
    return LobbyPolicy(nets, START, PARAMETERS)


@pytest.fixture(scope="module")
def exported(policy: LobbyPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from shared.learning.export.lobby import export_lobby

    folder = tmp_path_factory.mktemp("exported")
    export_lobby(policy, folder)
    return folder


def manifest_of(policy: LobbyPolicy, **changes: object) -> PolicyManifest:
    return PolicyManifest.draft(
        PARAMETERS,
        version="v1",
        fleet="default",
        created_at=utc_now(),
        observation_fields=policy.fields,
        dynamics="lobby",
        lobby=LobbyRule(numbers=dict(policy.numbers), horizons=HORIZONS, levels=LEVELS),
        **changes,
    )


def learnt(policy: LobbyPolicy, exported: Path) -> LearntPolicy:
    return LearntPolicy((exported / LITERT_MODEL).read_bytes(), manifest_of(policy))


def observations(policy: LobbyPolicy) -> np.ndarray:
    from shared.learning.export.agreement import random_observations

    return random_observations(policy.fields, PARAMETERS, np.random.default_rng(3))


def test_savedmodel_and_litert_agree_with_the_policy(policy: LobbyPolicy, exported: Path) -> None:
    from shared.learning.export.lobby import check_lobby_agreement

    check_lobby_agreement(policy, exported, PARAMETERS, np.random.default_rng(0))


@pytest.mark.parametrize("number", ["level", "horizon", "buffer", "waiting", "keep_buffer"])
def test_files_with_other_parameters_of_the_rule_are_not_published(
    policy: LobbyPolicy, exported: Path, number: str
) -> None:
    from shared.learning.export.lobby import check_lobby_agreement

    other = replace(policy, numbers=START | {number: START[number] + 0.7})
    with pytest.raises(PolicyDisagrees, match="tell different numbers"):
        check_lobby_agreement(other, exported, PARAMETERS, np.random.default_rng(0))


def test_files_of_other_nets_are_not_published(policy: LobbyPolicy, exported: Path) -> None:
    from shared.learning.export.lobby import check_lobby_agreement

    other = replace(policy, nets=QuantileNets(0))
    with pytest.raises(PolicyDisagrees, match="forecasts"):
        check_lobby_agreement(other, exported, PARAMETERS, np.random.default_rng(0))


def test_the_runtime_returns_the_policys_forecasts_and_actions(
    policy: LobbyPolicy, exported: Path
) -> None:
    runtime = learnt(policy, exported)
    seen = observations(policy)
    np.testing.assert_allclose(runtime.quantiles(seen), policy.quantiles(seen), atol=1e-3)
    assert runtime.actions(seen).shape == (len(seen), 1)
    assert runtime.reads_targets


def test_ten_notebook_numbers_are_enough_for_an_action(policy: LobbyPolicy, exported: Path) -> None:
    """Sixty servers up, none starting, falling demand: servers are removed, none launched."""
    runtime = learnt(policy, exported)
    numbers = (40.0, 38, 36, 34, 32, *(60.0,) * 5)
    seen = np.array([from_notebook(numbers, policy.fields)])
    action = float(runtime.actions(seen)[0, 0])
    assert action == pytest.approx(float(policy.actions(seen)[0, 0]), abs=1e-5)
    assert 0.32 <= action < 0.60
    full = (60.0, 62, 64, 66, 68, *(60.0,) * 5)
    rising = float(runtime.actions(np.array([from_notebook(full, policy.fields)]))[0, 0])
    assert rising > 0.68, "players wait, and more come"


def test_a_manifest_that_does_not_match_the_files_is_refused(
    policy: LobbyPolicy, exported: Path
) -> None:
    content = (exported / LITERT_MODEL).read_bytes()
    without = manifest_of(policy).model_copy(update={"lobby": None, "dynamics": None})
    with pytest.raises(PolicyCorrupt, match="its manifest says"):
        LearntPolicy(content, without)
    fewer = LobbyRule(numbers=START, horizons=(1, 2), levels=LEVELS)
    with pytest.raises(PolicyCorrupt, match="its manifest says"):
        LearntPolicy(content, manifest_of(policy).model_copy(update={"lobby": fewer}))


def test_the_runtime_of_a_fleet_refuses_it_so_far(
    policy: LobbyPolicy, publish_policy: PublishPolicy, tmp_path: Path
) -> None:
    store = PolicyStore.at(tmp_path)
    rule = LobbyRule(numbers=START, horizons=HORIZONS, levels=LEVELS)
    publish_policy(store, "v1", dynamics="lobby", lobby=rule)
    with pytest.raises(PolicyUnfit, match="lobby's dynamics"):
        load_policy(store, "default", "v1", PARAMETERS)


def test_a_manifest_of_the_notebooks_dynamics_has_no_field_of_the_lobby() -> None:
    """The release before this one refuses fields that it does not know."""
    drafted = PolicyManifest.draft(PARAMETERS, version="v1", fleet="default", created_at=utc_now())
    assert not {"lobby", "dynamics"} & set(json.loads(drafted.model_dump_json(exclude_none=True)))


def test_train_writes_what_backtest_replays(
    autopilot: Autopilot, trace: Callable[..., Path], tmp_path: Path
) -> None:
    path = str(trace(WAVE))
    made = autopilot(
        "train", "--trace", path, "--dynamics", "lobby", "--seconds", "2", "--out", "p"
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    manifest = PolicyManifest.model_validate_json((tmp_path / "p" / "policy.json").read_text())
    assert manifest.dynamics == "lobby"
    assert manifest.lobby is not None
    assert manifest.lobby.horizons == HORIZONS
    assert set(manifest.lobby.numbers) == set(START)
    assert {"policy.tflite", "nets.npz"} <= set(manifest.sha256)
    for dynamics in ("lobby", "notebook"):
        done = autopilot(
            *("backtest", "--trace", path, "--dynamics", dynamics, "--policy", "p"),
            *("--json", f"{dynamics}.json"),
        )
        assert done.returncode == 0, done.stderr
        document = json.loads((tmp_path / f"{dynamics}.json").read_text())
        assert document["dynamics"] == dynamics
        assert document["policies"]["autopilot"]["chosen"]["version"] == manifest.version
