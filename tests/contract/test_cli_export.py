"""`autopilot policies export`: from a folder and from S3, whole, checked, never over anything."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from rich.console import Console

from services.cli.export import export_policy
from shared.core.parameters import FleetParameters
from shared.errors import BadInput, PolicyCorrupt, PolicyMissing
from shared.messages import PolicyManifest, utc_now
from shared.policies.runtime import LearntPolicy, first_action
from shared.policies.store import CHECKPOINT, LITERT_MODEL, SAVED_MODEL, read_checked, read_manifest
from shared.settings import Settings
from tests.conftest import MEAN_MODEL


def publish(store, version="v1"):
    """A version whose SavedModel is none."""
    with store.writing("eu", version) as folder:
        (folder / SAVED_MODEL / "variables").mkdir(parents=True)
        (folder / SAVED_MODEL / "saved_model.pb").write_bytes(b"a graph")
        (folder / SAVED_MODEL / "variables" / "variables.index").write_bytes(b"an index")
        (folder / CHECKPOINT).mkdir()
        (folder / CHECKPOINT / "weights").write_bytes(b"weights")
        shutil.copy(MEAN_MODEL, folder / LITERT_MODEL)
        return store.publish(draft(version), folder)


def draft(version):
    return PolicyManifest.draft(
        FleetParameters(min_servers=0), version=version, fleet="eu", created_at=utc_now()
    )


def export(store, version, out, sagemaker=False):
    settings = Settings(policy_store=str(store.files))
    export_policy(settings, "eu", version, out, Console(quiet=True), sagemaker=sagemaker)


def test_the_whole_artefact_as_a_folder(any_store, tmp_path):
    manifest = publish(any_store)
    out = tmp_path / "out"
    export(any_store, "v1", out)
    assert read_manifest(out) == manifest
    for name in manifest.sha256:
        read_checked(out, manifest, name)
    policy = LearntPolicy((out / LITERT_MODEL).read_bytes(), manifest)
    assert first_action(policy, [50.0] * 10) == pytest.approx(0.5)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "policies") == ["out"]


def test_without_a_version_it_is_the_champion(any_store, tmp_path):
    publish(any_store, "v1")
    publish(any_store, "v2")
    any_store.set_champion("eu", "v1", utc_now())
    export(any_store, None, tmp_path / "out")
    assert read_manifest(tmp_path / "out").version == "v1"


def test_without_a_champion_a_version_has_to_be_named(any_store, tmp_path):
    publish(any_store)
    with pytest.raises(PolicyMissing, match="has no champion: name a version"):
        export(any_store, None, tmp_path / "out")


def test_sagemakers_archive_has_what_serves_and_no_checkpoint(any_store, tmp_path):
    """For our container the artefact, and for TensorFlow's a name, a number, a graph."""
    manifest = publish(any_store)
    out = tmp_path / "model.tar.gz"
    export(any_store, "v1", out, sagemaker=True)
    served = [
        "policy.tflite",
        "tf-model/00000001/saved_model.pb",
        "tf-model/00000001/variables/variables.index",
    ]
    with tarfile.open(out) as archive:
        assert archive.getnames() == [*served, "policy.json"]
        assert all(member.isfile() and member.mode == 0o644 for member in archive)
        archive.extractall(tmp_path / "model", filter="data")
    packed = read_manifest(tmp_path / "model")
    assert packed == manifest.model_copy(update={"sha256": packed.sha256})
    assert sorted(packed.sha256) == served
    for name in served:
        assert read_checked(tmp_path / "model", packed, name) == any_store.read(manifest, name)


@pytest.mark.parametrize("sagemaker", [False, True])
def test_nothing_is_written_over(any_store, tmp_path, sagemaker):
    publish(any_store)
    out = tmp_path / "mine"
    out.write_text("mine")
    with pytest.raises(BadInput, match=r"--out .*mine is there already: name a new"):
        export(any_store, "v1", out, sagemaker)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("sagemaker", [False, True])
def test_a_damaged_artefact_leaves_nothing(any_store, tmp_path, sagemaker):
    publish(any_store)
    any_store.files.change(f"eu/v1/{SAVED_MODEL}/saved_model.pb", lambda _: b"another graph")
    (folder := tmp_path / "here").mkdir()
    with pytest.raises(PolicyCorrupt, match="does not match its sha256"):
        export(any_store, "v1", folder / "out", sagemaker)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_manifest_that_points_outside_is_refused(any_store, tmp_path, name):
    manifest = publish(any_store)
    digest = hashlib.sha256(b"x").hexdigest()
    tampered = manifest.model_copy(update={"sha256": {**manifest.sha256, name: digest}})
    content = tampered.model_dump_json().encode()
    any_store.files.change("eu/v1/policy.json", lambda _: content)
    with pytest.raises(PolicyCorrupt, match="names a file outside of it"):
        export(any_store, "v1", tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_a_version_without_a_saved_model_is_told(any_store, tmp_path, publish_policy):
    publish_policy(any_store, "v1", "eu")
    with pytest.raises(PolicyMissing, match=r"v1 has no tf-model/00000001/saved_model\.pb"):
        export(any_store, "v1", tmp_path / "model.tar.gz", sagemaker=True)
    assert not (tmp_path / "model.tar.gz").exists()


def test_tensorflow_answers_from_sagemakers_archive_as_the_services_do(any_store, tmp_path):
    """By the command itself; a rule's graph, as the trainer writes it for a champion."""
    import tensorflow as tf

    from shared.learning.export.writer import export as export_policy
    from shared.learning.models.rule_policy import TunedRulePolicy

    parameters = FleetParameters(observation="notebook")
    slopes = {"demand[-3]": -0.5}
    rule = TunedRulePolicy(1.25, 3.0, slopes, (), shift_weight=0.0, parameters=parameters)
    with any_store.writing("eu", "v1") as folder:
        export_policy(rule, folder)
        manifest = draft("v1").model_copy(update={"observation_fields": rule.fields})
        manifest = any_store.publish(manifest, folder)
    command = [sys.executable, "-m", "services.cli", "policies", "export", "v1", "--fleet", "eu"]
    subprocess.run(
        [*command, "--sagemaker", "--out", str(tmp_path / "model.tar.gz")],
        check=True,
        env={**os.environ, "AUTOPILOT_POLICY_STORE": str(any_store.files)},
    )
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model", filter="data")
    loaded = tf.saved_model.load(str(tmp_path / "model" / SAVED_MODEL))
    served = LearntPolicy(any_store.read(manifest, LITERT_MODEL), manifest)
    observations = np.random.default_rng(0).uniform(10, 100, (8, len(rule.fields)))
    answer = loaded.signatures["serving_default"](tf.constant(observations, dtype=tf.float32))
    actions = answer["policy"].numpy()
    expected = [[first_action(served, row)] for row in observations]
    assert actions.shape == (8, 1)
    assert np.ptp(actions) > 0.1
    assert actions == pytest.approx(np.array(expected), abs=1e-5)


def test_help_says_which_version_it_is_without_one(autopilot):
    shown = autopilot("policies", "export", "--help", COLUMNS="100").stdout
    assert "The version. [default: (the champion)]" in shown
