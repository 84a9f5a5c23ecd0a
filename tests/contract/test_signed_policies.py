"""With a key, manifests are signed, and none that is not is read; without one nothing changes."""

import asyncio
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tarfile

import pytest
import structlog

from services.prediction import serve
from shared.errors import BadSetting, PolicyCorrupt
from shared.messages import PolicyManifest, utc_now
from shared.policies.champions import Champions
from shared.policies.runtime import PRETRAINED, PRETRAINED_STORE, load_policy
from shared.policies.store import (
    LITERT_MODEL,
    MANIFEST,
    SAVED_MODEL,
    PolicyStore,
    read_manifest,
    seal,
)
from shared.policies.store_seal import SigningKey
from shared.settings import Fleets, FleetSettings
from tests.conftest import MEAN_MODEL

SECRET = b"0123456789abcdef"
PARAMETERS = FleetSettings(observation="notebook").parameters


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(SECRET + b"\n")
    return path


@pytest.fixture
def signing(any_store, key_file):
    """The same store, for who has the key."""
    return PolicyStore(any_store.files, SigningKey.of(key_file))


def content(store, version="v1"):
    return json.loads(store.files.read(f"default/{version}/{MANIFEST}"))


def rewrite(store, version="v1", **changes):
    """What somebody does who can write to the store and has no key."""
    changed = json.dumps({**content(store, version), **changes}).encode()
    store.files.change(f"default/{version}/{MANIFEST}", lambda _: changed)


def refused(store, says, version="v1"):
    with pytest.raises(PolicyCorrupt, match=says) as error:
        store.manifest("default", version)
    assert len(str(error.value).splitlines()) == 1
    assert f"default/{version}/policy.json" in str(error.value)


@pytest.fixture
def command(any_store, key_file, redis_url, run, monkeypatch):
    """Runs `autopilot` on the store, with the key unless told otherwise."""
    monkeypatch.setenv("AUTOPILOT_POLICY_STORE", str(any_store.files))
    monkeypatch.setenv("AUTOPILOT_REDIS_URL", redis_url)

    def command(*arguments, key=key_file):
        if key is None:
            monkeypatch.delenv("AUTOPILOT_SIGNING_KEY_FILE", raising=False)
        else:
            monkeypatch.setenv("AUTOPILOT_SIGNING_KEY_FILE", str(key))
        return run(*arguments)

    return command


# The signature


def test_the_signature_is_an_hmac_of_the_rest_as_canonical_json(signing, publish_policy):
    publish_policy(signing, "v1")
    document = content(signing)
    signature = document.pop("signature")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert signature == hmac.new(SECRET, canonical.encode(), hashlib.sha256).hexdigest()


def test_without_a_key_the_release_before_reads_what_is_published(any_store, publish_policy):
    """Its models refuse fields that they don't know."""
    publish_policy(any_store, "v1")
    newer = {"dynamics", "lobby"}
    assert set(content(any_store)) == set(PolicyManifest.model_fields) - {"signature"} - newer


def test_what_is_published_with_the_key_is_read_with_it_and_without_one(
    signing, any_store, publish_policy
):
    publish_policy(signing, "v1")
    for store in (signing, any_store):
        assert store.manifest("default", "v1").signature is not None
        assert load_policy(store, "default", "v1", PARAMETERS).version == "v1"


def test_it_is_read_when_a_release_to_come_has_more_fields(signing, publish_policy):
    """And the ones that it has are in another order, and written otherwise."""
    publish_policy(signing, "v1")
    document = dict(sorted(content(signing).items()))
    document.pop("experts")
    document["signature"] = signing.key.signature(document)
    signing.files.change(
        f"default/v1/{MANIFEST}", lambda _: json.dumps(document, indent=7).encode()
    )
    assert signing.manifest("default", "v1").experts == {}


def test_an_unsigned_manifest_is_refused(signing, any_store, publish_policy):
    publish_policy(any_store, "v1")
    refused(signing, "is not signed and AUTOPILOT_SIGNING_KEY_FILE is set")


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": {LITERT_MODEL: "0" * 64}},
        {"exploration": 9.0},
        {"created_at": "2026-11-22T20:33:01Z"},
        {"signature": "0" * 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_manifest_is_refused(signing, publish_policy, changes):
    publish_policy(signing, "v1")
    rewrite(signing, **changes)
    refused(signing, "was changed after it was signed, or signed with another key")


@pytest.mark.parametrize("signature", [7, "", "short", "A" * 64, "\ud800", ["0" * 64]])
def test_a_signature_that_is_none_is_refused(signing, publish_policy, signature):
    publish_policy(signing, "v1")
    rewrite(signing, signature=signature)
    refused(signing, "is not a policy manifest")


def test_a_key_that_is_named_twice_does_not_hide_a_change(signing, publish_policy):
    """Parsers differ in which one they take: what is used is what was signed."""
    publish_policy(signing, "v1")
    text = signing.files.read(f"default/v1/{MANIFEST}").decode()
    twice = text.replace('"exploration":', '"exploration": 9.0, "exploration":')
    assert twice != text
    signing.files.change(f"default/v1/{MANIFEST}", lambda _: twice.encode())
    assert signing.manifest("default", "v1").exploration == 0.0


def test_another_key_is_refused(signing, any_store, publish_policy, tmp_path):
    publish_policy(signing, "v1")
    (tmp_path / "other").write_bytes(b"x" * 32)
    refused(PolicyStore(any_store.files, SigningKey.of(tmp_path / "other")), "another key")


def test_a_signed_version_does_not_serve_under_another_name(signing, any_store, publish_policy):
    """Its signature is right wherever it is copied to."""
    publish_policy(signing, "v1")
    publish_policy(signing, "v2")
    copied = signing.files.read(f"default/v1/{MANIFEST}")
    signing.files.change(f"default/v2/{MANIFEST}", lambda _: copied)
    with pytest.raises(PolicyCorrupt, match=r"policy v2 .* has the manifest of v1"):
        signing.manifest("default", "v2")


def test_a_signed_manifest_does_not_vouch_for_a_changed_file(signing, publish_policy):
    publish_policy(signing, "v1")
    signing.files.change(f"default/v1/{LITERT_MODEL}", lambda _: b"another")
    with pytest.raises(PolicyCorrupt, match="does not match its sha256"):
        load_policy(signing, "default", "v1", PARAMETERS)


def test_the_key_is_not_shown():
    assert "0123" not in repr(SigningKey(SECRET))


def test_without_a_setting_there_is_no_key():
    assert SigningKey.of(None) is None


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (None, "can't read it: No such file"),
        (b"", "has 0 bytes and a key takes 16 or more"),
        (b"fifteen letters\n", "has 15 bytes"),
        ("folder", "can't read it: Is a directory"),
    ],
)
def test_a_key_that_is_none_is_one_line_and_exit_code_2(tmp_path, command, write, says):
    path = tmp_path / "bad-key"
    if write == "folder":
        path.mkdir()
    elif write is not None:
        path.write_bytes(write)
    with pytest.raises(BadSetting, match=says):
        SigningKey.of(path)
    code, _, err = command("policies", "list", key=path)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert f"AUTOPILOT_SIGNING_KEY_FILE={path}" in err


# Services


def test_services_refuse_an_unsigned_champion_and_serve_what_comes_with_the_package(
    signing, any_store, publish_policy
):
    publish_policy(any_store, "v1")
    fleets = Fleets({"default": FleetSettings()})
    champions = Champions(signing, fleets)
    with structlog.testing.capture_logs() as logs:
        asyncio.run(champions.load_all())
    assert champions.policy("default").version in PRETRAINED_STORE.versions(PRETRAINED)
    (told,) = logs
    assert told["event"] == "policy_refused"
    assert "is not signed" in told["error"]
    assert signing.sign("default", "v1")
    asyncio.run(champions.load_all())
    assert champions.policy("default").version == "v1"


@pytest.mark.parametrize("service", ["environment", "prediction", "prediction.serve", "trainer"])
def test_a_service_without_a_readable_key_does_not_start(tmp_path, redis_url, service):
    started = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env={
            **os.environ,
            "AUTOPILOT_REDIS_URL": redis_url,
            "AUTOPILOT_SIGNING_KEY_FILE": str(tmp_path / "none"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 2
    assert len(started.stderr.splitlines()) == 1
    assert "AUTOPILOT_SIGNING_KEY_FILE" in started.stderr


# Commands


def test_an_operator_signs_what_was_there_before(command, any_store, signing, publish_policy):
    publish_policy(any_store, "v1")
    code, _, err = command("policies", "promote", "v1")
    assert (code, len(err.splitlines())) == (1, 1)
    code, out, _ = command("policies", "sign", "v1", "--fleet", "default")
    assert (code, out) == (0, "v1 of fleet default is signed now\n")
    assert signing.manifest("default", "v1").signature is not None
    assert command("policies", "promote", "v1")[0] == 0
    _, out, _ = command("policies", "sign", "v1")
    assert "already" in out
    with signing.fetched("default", "v1") as folder:
        assert (folder / LITERT_MODEL).is_file()


@pytest.mark.parametrize("harm", ["changed", "added", "lost"])
def test_what_is_damaged_is_not_signed(any_store, signing, publish_policy, harm):
    publish_policy(any_store, "v1")
    name = f"default/v1/{LITERT_MODEL}"
    if harm == "lost":
        if hasattr(any_store.files, "root"):
            (any_store.files.root / name).unlink()
        else:
            any_store.files._delete([name])
    else:
        any_store.files.change(name if harm == "changed" else f"{name}.more", lambda _: b"x")
    with pytest.raises(PolicyCorrupt, match=r"does not match|does not list|can't read"):
        signing.sign("default", "v1")
    assert "signature" not in content(any_store)


def test_signing_needs_a_key_and_a_version(command, any_store, publish_policy):
    publish_policy(any_store, "v1")
    code, _, err = command("policies", "sign", "v1", key=None)
    assert code == 2
    assert "AUTOPILOT_SIGNING_KEY_FILE is not set" in err
    for version, says in (("v9", "has no policy version 'v9'"), ("../x", "lead to another folder")):
        code, _, err = command("policies", "sign", version)
        assert code == 2
        assert says in err
        assert len(err.splitlines()) == 1


def test_an_unsigned_version_can_be_retired(any_store, signing, publish_policy):
    publish_policy(any_store, "v1")
    publish_policy(signing, "v2")
    signing.retire("default", "v1")
    assert signing.versions("default") == ["v2"]


def test_what_is_exported_is_signed(command, any_store, signing, tmp_path):
    draft = PolicyManifest.draft(PARAMETERS, version="v1", fleet="default", created_at=utc_now())
    with any_store.writing("default", "v1") as folder:
        (folder / LITERT_MODEL).write_bytes(MEAN_MODEL.read_bytes())
        (folder / SAVED_MODEL).mkdir(parents=True)
        (folder / SAVED_MODEL / "saved_model.pb").write_bytes(b"a graph")
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "weights").write_bytes(b"weights")
        any_store.publish(draft, folder)
    signing.sign("default", "v1")
    out, archive = tmp_path / "out", tmp_path / "model.tar.gz"
    assert command("policies", "export", "v1", "--out", out)[0] == 0
    assert command("policies", "export", "v1", "--sagemaker", "--out", archive)[0] == 0
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "model", filter="data")
    for folder in (out, tmp_path / "model"):
        assert read_manifest(folder, signing.key).version == "v1"
        assert serve.load(folder, signing.key).version == "v1"
    assert "checkpoint/weights" not in read_manifest(tmp_path / "model").sha256
    with pytest.raises(BadSetting, match="signed with another key"):
        serve.load(out, SigningKey(b"x" * 16))


def test_what_is_sealed_beside_a_store_is_signed(tmp_path, key_file):
    """As `train --out` does."""
    key = SigningKey.of(key_file)
    for name, own in (("signed", key), ("unsigned", None)):
        (tmp_path / "draft").mkdir()
        draft = PolicyManifest.draft(
            PARAMETERS, version=name, fleet="default", created_at=utc_now()
        )
        seal(draft, tmp_path / "draft", tmp_path / name, own)
    assert read_manifest(tmp_path / "signed", key).version == "signed"
    with pytest.raises(PolicyCorrupt, match="is not signed"):
        read_manifest(tmp_path / "unsigned", key)


def test_commands_take_a_folder_only_if_it_is_signed_and_the_packages_policy_in_any_case(
    command, any_store, signing, publish_policy, tmp_path
):
    publish_policy(any_store, "v1")
    assert command("policies", "export", "v1", "--out", tmp_path / "out", key=None)[0] == 0
    code, _, err = command("evaluate", "--policy", tmp_path / "out", "--episodes", "1")
    assert code == 2
    assert "is not signed" in err
    (general, *_) = PRETRAINED_STORE.versions(PRETRAINED)
    code, _, err = command("evaluate", "--policy", general, "--episodes", "1")
    assert code == 0, err


# Checkpoints that are not part of an artefact


def test_a_batch_is_signed_and_an_unsigned_one_is_not_restored(any_store, signing):
    from tests.contract.test_checkpoint_verified import keep, start

    name = keep(signing)
    manifest = json.loads(any_store.files.read(f"{name}/manifest.json"))
    assert signing.key.made(manifest)
    _, logs = start(signing)
    (told,) = logs
    assert "not a checkpoint of a policy" in told["reason"], "it was opened, and is none"
    unsigned = json.dumps({"sha256": manifest["sha256"]}).encode()
    any_store.files.change(f"{name}/manifest.json", lambda _: unsigned)
    _, logs = start(signing)
    (told,) = logs
    assert told["event"] == "checkpoint_refused"
    assert "is not signed" in told["reason"]
