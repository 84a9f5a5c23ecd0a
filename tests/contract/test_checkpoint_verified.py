"""A checkpoint is a pickle, and so code: its files are those of its manifest, or none is read."""

import json
import os
import pickle
import tempfile

import pytest
import structlog

from shared.core.parameters import FleetParameters
from shared.errors import PolicyCorrupt, PolicyMissing
from shared.messages import PolicyManifest, utc_now
from shared.policies.store import CHECKPOINT, MANIFEST, PolicyStore
from shared.policies.store_folder import FolderFiles

PICKLED = "learner_group/learner/rl_module/default_policy/class_and_ctor_args.pkl"
"""What RLlib unpickles first."""


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def made(tmp_path):
    """The file that the pickle makes."""
    return tmp_path / "made"


@pytest.fixture
def evil(made):
    return pickle.dumps(Touch(made))


def write_checkpoint(folder, content=b"weights"):
    path = folder / PICKLED
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (folder / "learner_group" / "metadata.json").write_text("{}")


def publish(store, version="v1", fleet="eu", content=b"weights"):
    draft = PolicyManifest.draft(
        FleetParameters(), version=version, fleet=fleet, created_at=utc_now()
    )
    with store.writing(fleet, version) as folder:
        write_checkpoint(folder / CHECKPOINT, content)
        store.publish(draft, folder)
    store.set_champion(fleet, version, utc_now())


def put(store, name, content):
    """Write behind the store's back, whatever the name."""
    if isinstance(store.files, FolderFiles):
        path = store.files.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    else:
        key = store.files._prefix + name
        store.files._client.put_object(Bucket=store.files._bucket, Key=key, Body=content)


def lose(store, name):
    if isinstance(store.files, FolderFiles):
        (store.files.root / name).unlink()
    else:
        store.files._delete([name])


def list_more(store, name, digest="0" * 64):
    """Have the manifest list another file."""
    path = f"eu/v1/{MANIFEST}"
    manifest = json.loads(store.files.read(path))
    manifest["sha256"][name] = digest
    put(store, path, json.dumps(manifest).encode())


def refuses(store, says, part=CHECKPOINT):
    with pytest.raises(PolicyCorrupt, match=says) as refused, store.fetched("eu", "v1", part):
        raise AssertionError("it was handed out")
    assert len(str(refused.value).splitlines()) == 1


# The store


@pytest.mark.parametrize("part", [CHECKPOINT, ""])
def test_what_was_published_is_handed_out(any_store, part):
    publish(any_store)
    with any_store.fetched("eu", "v1", part) as folder:
        start = folder if part else folder / CHECKPOINT
        assert (start / PICKLED).read_bytes() == b"weights"
        assert folder.stat().st_mode & 0o077 == 0, "nobody else may change it"
    assert not folder.exists()


def test_a_version_without_a_checkpoint_hands_out_nothing(any_store):
    publish(any_store)
    with any_store.fetched("eu", "v1", "another") as folder:
        assert list(folder.iterdir()) == []


def test_what_is_handed_out_does_not_change_any_more(any_store, evil):
    publish(any_store)
    with any_store.fetched("eu", "v1", CHECKPOINT) as folder:
        put(any_store, f"eu/v1/{CHECKPOINT}/{PICKLED}", evil)
        assert (folder / PICKLED).read_bytes() == b"weights"


@pytest.mark.parametrize("part", [CHECKPOINT, ""])
def test_a_changed_file_is_refused(any_store, evil, part):
    publish(any_store)
    put(any_store, f"eu/v1/{CHECKPOINT}/{PICKLED}", evil)
    refuses(any_store, r"policy v1: .*class_and_ctor_args\.pkl does not match its sha256", part)


@pytest.mark.parametrize("part", [CHECKPOINT, ""])
def test_a_file_that_is_not_listed_is_refused(any_store, evil, part):
    publish(any_store)
    put(any_store, f"eu/v1/{CHECKPOINT}/learner_group/state.pkl", evil)
    refuses(any_store, r"does not list 'checkpoint/learner_group/state\.pkl'", part)


def test_a_lost_file_is_refused(any_store):
    publish(any_store)
    lose(any_store, f"eu/v1/{CHECKPOINT}/{PICKLED}")
    refuses(any_store, "can't read")


@pytest.mark.parametrize(
    "name",
    ["../outside", "../../outside", "a/../../outside", "/{outside}", "a\\..\\..\\outside"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_key_that_leads_outside_is_refused(bucket, tmp_path, monkeypatch, name, listed):
    """In S3 a key is any text, and nobody but us makes a path of it."""
    store = PolicyStore.at(f"s3://{bucket}/policies")
    publish(store)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    outside = tmp_path / "outside"
    at = f"{CHECKPOINT}/{name.format(outside=outside)}"
    put(store, f"eu/v1/{at}", b"x")
    if listed:
        list_more(store, at, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    refuses(store, "names a file outside of it" if listed else "does not list")
    assert list(tmp_path.rglob("*outside*")) == []


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "checkpoint/../../x", "checkpoint//x", "checkpoint/./x", "a\x00b", ""]
)
def test_a_manifest_that_names_what_is_outside_is_refused(any_store, name):
    publish(any_store)
    list_more(any_store, name)
    refuses(any_store, "names a file outside of it", part="")
    manifest = any_store.manifest("eu", "v1")
    with pytest.raises(PolicyCorrupt, match="names a file outside of it"):
        any_store.read(manifest, name)


@pytest.mark.parametrize("target", ["inside", "outside"])
def test_a_link_in_a_folder_is_refused(tmp_path, target):
    """Also where what it leads to has the digest: that may change after it was looked at."""
    store = PolicyStore.at(tmp_path / "policies")
    publish(store)
    path = store.files.root / "eu/v1" / CHECKPOINT / PICKLED
    elsewhere = (path.parent if target == "inside" else tmp_path) / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    refuses(store, "is a link")


def test_a_linked_folder_is_refused(tmp_path):
    store = PolicyStore.at(tmp_path / "policies")
    publish(store)
    learner = store.files.root / "eu/v1" / CHECKPOINT / "learner_group"
    learner.rename(tmp_path / "learner_group")
    learner.symlink_to(tmp_path / "learner_group")
    refuses(store, "is a link")


def test_a_pipe_in_a_folder_holds_nobody_up(tmp_path):
    store = PolicyStore.at(tmp_path / "policies")
    publish(store)
    path = store.files.root / "eu/v1" / CHECKPOINT / PICKLED
    path.unlink()
    os.mkfifo(path)
    refuses(store, "not a regular file")


@pytest.mark.parametrize("level", ["eu", "eu/v1", "eu/v1/policy.json"])
def test_a_store_does_not_follow_a_link_out_of_it(tmp_path, level):
    store = PolicyStore.at(tmp_path / "policies")
    publish(store)
    path = store.files.root / level
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyCorrupt, match="behind a link that leads out of"):
        store.manifest("eu", "v1")
    if level != "eu/v1/policy.json":
        with pytest.raises(PolicyCorrupt, match="behind a link that leads out of"):
            publish(store, "v2" if level == "eu" else "v1")
    assert store.versions("us") == []


def test_a_store_that_is_itself_a_link_is_used(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "policies").symlink_to(tmp_path / "disk")
    store = PolicyStore.at(tmp_path / "policies")
    publish(store)
    with store.fetched("eu", "v1", CHECKPOINT) as folder:
        assert (folder / PICKLED).is_file()


NAMES = ["../../x", "..", ".", "", "/etc", "a/b", "a\\b", "a\x00b", "a\nb"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["fleet", "version"])
def test_a_name_that_leads_elsewhere_is_no_policy(any_store, name, what):
    """Of a message in Redis, or of a command."""
    publish(any_store)
    before = any_store.files.names("")
    fleet, version = (name, "v1") if what == "fleet" else ("eu", name)
    uses = [
        lambda: any_store.manifest(fleet, version),
        lambda: any_store.set_champion(fleet, version, utc_now()),
        lambda: any_store.retire(fleet, version),
        lambda: any_store.fetched(fleet, version).__enter__(),
        lambda: any_store.writing(fleet, version).__enter__(),
    ]
    if what == "fleet":
        uses += [lambda: any_store.champion(fleet), lambda: any_store.sweep(fleet)]
        uses += [lambda: any_store.versions(fleet)]
    for use in uses:
        with pytest.raises(PolicyMissing, match="which would lead to another folder") as refused:
            use()
        assert len(str(refused.value).splitlines()) == 1
    assert any_store.files.names("") == before


@pytest.fixture
def store_here(monkeypatch):
    """Commands work on the folder `policies` of where they run."""
    monkeypatch.setenv("AUTOPILOT_POLICY_STORE", "policies")


@pytest.mark.parametrize(
    "command",
    [
        ("promote", "../../x"),
        ("retire", "../../x"),
        ("show", "../../x"),
        ("show", "v1", "--fleet", "../.."),
        ("rollback", "--fleet", "../.."),
        ("export", "../../x", "--out", "out"),
        ("export", "--out", "out", "--fleet", "/etc"),
    ],
)
def test_a_command_with_such_a_name_is_one_line(run, store_here, command):
    code, _, err = run("policies", *command)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "which would lead to another folder" in err


# What restores one: RLlib, without Ray


def test_without_a_manifest_a_checkpoint_is_taken_only_with_trust(run, tmp_path, made, evil):
    """With it the pickle runs: that is what the others are about."""
    write_checkpoint(tmp_path / "found", evil)
    code, _, err = run("evaluate", "--checkpoint", "found")
    assert (code, made.exists()) == (2, False)
    assert len(err.strip().splitlines()) == 1
    assert "it has no manifest" in err
    assert "--trust" in err
    run("evaluate", "--checkpoint", "found", "--trust")
    assert made.exists()


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("how", ["changed", "added", "linked"])
@pytest.mark.parametrize("of", ["an artefact", "a batch"])
def test_evaluate_refuses_a_checkpoint_that_is_not_what_its_manifest_says(
    run, tmp_path, made, evil, trust, how, of
):
    """Whoever trusts it: it says by itself that somebody has changed it."""
    store = PolicyStore.at(tmp_path / "policies")
    if of == "an artefact":
        publish(store)
        folder = store.files.root / "eu/v1" / CHECKPOINT
    else:
        folder = store.files.root / keep(store)
    if how == "changed":
        (folder / PICKLED).write_bytes(evil)
    elif how == "added":
        (folder / "learner_group" / "state.pkl").write_bytes(evil)
    else:
        (folder / PICKLED).unlink()
        (tmp_path / "evil").write_bytes(evil)
        (folder / PICKLED).symlink_to(tmp_path / "evil")
    code, _, err = run("evaluate", "--checkpoint", folder, *trust)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    says = {"changed": "does not match its sha256", "added": "does not list", "linked": "is a link"}
    assert says[how] in err
    assert not made.exists()


def keep(store, content=b"weights", fleet="eu"):
    """Keep a batch in a fleet's working folder; its name in the store."""
    from shared.learning.on_policy.checkpoint_store import WorkingFolder, WorkingState

    state = WorkingState(
        batches=1, transitions=128, used_up_to=utc_now(), began_from=None, version="v1"
    )
    WorkingFolder(store, fleet).keep(state, lambda group: write_checkpoint(group.parent, content))
    return f"{fleet}/.on_policy/batch-000001"


def start(store):
    """Where an on-policy job would begin, and what it says."""
    from shared.learning.on_policy.checkpoint_store import WorkingFolder
    from shared.learning.on_policy.job import Job, start_of

    job = Job("eu", "v9", FleetParameters(), gamma=0.9, batch_size=128, seconds=1.0, seed=0)
    with (
        structlog.testing.capture_logs() as logs,
        start_of(job, store, WorkingFolder(store, "eu")) as found,
    ):
        return found, logs


def test_a_batch_has_a_manifest_of_all_its_files(any_store):
    name = keep(any_store)
    manifest = json.loads(any_store.files.read(f"{name}/manifest.json"))
    assert sorted(manifest["sha256"]) == [PICKLED, "learner_group/metadata.json", "state.json"]
    assert set(any_store.files.names(name)) == {*manifest["sha256"], "manifest.json"}


@pytest.mark.parametrize("file", [PICKLED, "learner_group/state.pkl", "manifest.json"])
def test_a_job_does_not_begin_from_a_batch_that_was_changed(any_store, made, evil, file):
    name = keep(any_store)
    put(any_store, f"{name}/{file}", evil)
    found, logs = start(any_store)
    assert (found.module, found.checkpoint) == (None, None)
    assert found.state.transitions == 128, "what it has learnt from is not learnt from again"
    assert [log["event"] for log in logs] == ["checkpoint_refused"]
    assert not made.exists()


def test_a_batch_of_the_last_release_is_not_restored_and_its_state_is_kept(any_store, made, evil):
    name = keep(any_store, evil)
    lose(any_store, f"{name}/manifest.json")
    found, logs = start(any_store)
    assert (found.module, found.checkpoint) == (None, None)
    assert found.state.transitions == 128
    assert [log["event"] for log in logs] == ["checkpoint_not_used"]
    assert "has no manifest.json" in logs[0]["reason"]
    assert not made.exists()


def test_a_job_does_not_begin_from_a_champion_that_was_changed(any_store, made, evil):
    publish(any_store)
    put(any_store, f"eu/v1/{CHECKPOINT}/{PICKLED}", evil)
    found, logs = start(any_store)
    assert (found.module, found.checkpoint) == (None, None)
    assert [log["event"] for log in logs] == ["checkpoint_refused"]
    assert not made.exists()
