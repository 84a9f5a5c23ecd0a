"""The policy store: a version is there whole or not at all, and a champion moves in one step."""

import hashlib
import itertools
import json
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from shared.core.parameters import FleetParameters
from shared.errors import BadSetting, PolicyCorrupt, PolicyMissing
from shared.policies.store import LITERT_MODEL, PolicyStore, new_version
from shared.policies.store_folder import FolderFiles
from tests.contract.published import NOW, PUBLISHED, draft, publish


@pytest.fixture
def store(any_store):
    return any_store


def write(store, name, content):
    """Put a file in behind the store's back."""
    store.files.change(name, lambda _: content)


def everything(store):
    """Every file, hidden ones too, but for a folder's locks."""
    return sorted(store.files.names("eu"))


def lose(store, name):
    """Delete a file behind the store's back."""
    if isinstance(store.files, FolderFiles):
        (store.files.root / name).unlink()
    else:
        store.files._delete([name])


def test_an_empty_store_knows_nothing(store):
    assert store.fleets() == []
    assert store.versions("eu") == []
    assert store.champion("eu") is None


def test_a_published_version_reads_back(store):
    manifest = publish(store)
    assert store.fleets() == ["eu"]
    assert store.versions("eu") == ["v1"]
    assert store.manifest("eu", "v1") == manifest
    assert store.read(manifest, LITERT_MODEL) == b"a model"
    assert store.read(manifest, "tf-model/saved_model.pb") == b"a graph"


def test_the_manifest_has_the_digest_of_every_other_file(store):
    assert publish(store).sha256 == {
        LITERT_MODEL: hashlib.sha256(b"a model").hexdigest(),
        "tf-model/saved_model.pb": hashlib.sha256(b"a graph").hexdigest(),
    }


def test_what_is_being_written_is_not_there_yet(store):
    with store.writing("eu", "v1") as folder:
        (folder / LITERT_MODEL).write_bytes(b"half a mod")
        (folder / "policy.json").write_text(draft().model_dump_json())
        assert store.versions("eu") == []
        with pytest.raises(PolicyMissing):
            store.manifest("eu", "v1")


def test_writing_that_fails_leaves_nothing(store):
    def fail():
        with store.writing("eu", "v1") as folder:
            (folder / LITERT_MODEL).write_bytes(b"half a mod")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert everything(store) == []


def test_a_writer_that_was_killed_is_not_seen(store):
    """Its folder stays, since nothing ran after it; another version is published beside it."""
    killed = store.writing("eu", "v1")
    folder = killed.__enter__()
    (folder / "policy.json").write_text(draft().model_dump_json())
    assert store.versions("eu") == []
    publish(store, "v2")
    assert store.versions("eu") == ["v2"]


def test_publishing_leaves_nothing_but_the_version(store):
    publish(store)
    assert everything(store) == PUBLISHED


def test_a_version_is_never_replaced(store):
    publish(store, model=b"the first")
    with pytest.raises(FileExistsError, match="exists in"):
        publish(store, model=b"the second")
    assert store.read(store.manifest("eu", "v1"), LITERT_MODEL) == b"the first"
    assert store.versions("eu") == ["v1"]


def test_versions_sort_by_time_and_two_trainers_do_not_share_one(store):
    ids = [new_version(NOW + timedelta(seconds=s)) for s in (0, 0, 1, 3600, 86_400 * 40)]
    assert len(set(ids)) == 5
    for version in reversed(ids[1:]):
        publish(store, version)
    assert store.versions("eu") == ids[1:]


def test_fleets_do_not_see_each_others_versions(store):
    publish(store, "v1", "eu")
    publish(store, "v2", "us")
    assert store.fleets() == ["eu", "us"]
    assert (store.versions("eu"), store.versions("us")) == (["v1"], ["v2"])
    with pytest.raises(PolicyMissing, match="fleet 'eu' has no policy version 'v2'"):
        store.manifest("eu", "v2")


@pytest.mark.parametrize("content", [b"a m0del", b"", b"a model and more"])
def test_a_file_that_was_tampered_with_is_refused(store, content):
    manifest = publish(store)
    write(store, f"eu/v1/{LITERT_MODEL}", content)
    with pytest.raises(PolicyCorrupt, match="does not match its sha256"):
        store.read(manifest, LITERT_MODEL)


def test_a_file_that_is_gone_is_refused(store):
    manifest = publish(store)
    lose(store, f"eu/v1/{LITERT_MODEL}")
    with pytest.raises(PolicyCorrupt, match=f"can't read {LITERT_MODEL}"):
        store.read(manifest, LITERT_MODEL)


def test_a_file_that_the_manifest_does_not_list_is_refused(store):
    manifest = publish(store)
    write(store, "eu/v1/extra.bin", b"x")
    with pytest.raises(PolicyCorrupt, match=r"does not list extra\.bin"):
        store.read(manifest, "extra.bin")


@pytest.mark.parametrize("content", ["", "{", "{}", '{"version": 1}', "[]"])
def test_a_manifest_that_is_none_is_refused(store, content):
    publish(store)
    write(store, "eu/v1/policy.json", content.encode())
    with pytest.raises(PolicyCorrupt, match="is not a policy manifest"):
        store.manifest("eu", "v1")


def test_the_champion_is_the_version_it_was_set_to(store):
    publish(store, "v1")
    publish(store, "v2")
    store.set_champion("eu", "v1", NOW)
    assert store.champion("eu").version == "v1"
    store.set_champion("eu", "v2", NOW)
    champion = store.champion("eu")
    assert (champion.fleet, champion.version, champion.since) == ("eu", "v2", NOW)


def test_a_champion_is_not_a_version(store):
    publish(store, "v1")
    store.set_champion("eu", "v1", NOW)
    assert store.versions("eu") == ["v1"]


def test_a_champion_that_is_not_there_changes_nothing(store):
    publish(store, "v1")
    store.set_champion("eu", "v1", NOW)
    with pytest.raises(PolicyMissing, match="'v9'"):
        store.set_champion("eu", "v9", NOW)
    assert store.champion("eu").version == "v1"


@pytest.mark.parametrize("content", ["", "{", "{}", '{"fleet": "eu", "version": "", "since": 0}'])
def test_a_broken_champion_pointer_is_refused(store, content):
    publish(store, "v1")
    store.set_champion("eu", "v1", NOW)
    write(store, "eu/champion.json", content.encode())
    with pytest.raises(PolicyCorrupt, match="is not a champion pointer"):
        store.champion("eu")


def test_a_reader_never_sees_half_a_champion(store):
    """Read all the time while it moves: each answer is one of the two versions."""
    publish(store, "v1")
    publish(store, "v2")
    store.set_champion("eu", "v1", NOW)
    moving = True

    def move():
        for number in range(60):
            store.set_champion("eu", f"v{number % 2 + 1}", NOW)

    mover = threading.Thread(target=move)
    mover.start()
    seen = set()
    while moving:
        moving = mover.is_alive()
        seen.add(store.champion("eu").version)
    mover.join()
    assert seen <= {"v1", "v2"}
    assert "v2" in seen
    assert len(everything(store)) == 2 * len(PUBLISHED) + 1


PROMOTER = """
import sys
from shared.messages import utc_now
from shared.policies.store import PolicyStore

store = PolicyStore.at(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for version in sys.argv[2:]:
    champion = store.set_champion("eu", version, utc_now())
    print(champion.version, champion.runner_up)
"""


def test_processes_that_promote_at_once_lose_no_promotion(tmp_path):
    """Each finds the one before as the champion whose place it takes: one chain, no fork."""
    store = PolicyStore.at(tmp_path)
    publish(store, "first")
    store.set_champion("eu", "first", NOW)
    shares = [[f"v{worker}-{number}" for number in range(25)] for worker in range(4)]
    for version in itertools.chain(*shares):
        publish(store, version)
    promoters = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, str(tmp_path), *versions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for versions in shares
    ]
    for promoter in promoters:
        assert promoter.stdout.readline() == "ready\n"
    for promoter in promoters:
        promoter.stdin.write("go\n")
        promoter.stdin.flush()
    said = [promoter.communicate(timeout=60)[0] for promoter in promoters]
    replaced = dict(line.split() for line in "".join(said).splitlines())
    assert sorted(replaced) == sorted(itertools.chain(*shares))
    chain = [store.champion("eu").version]
    while chain[-1] in replaced:
        chain.append(replaced[chain[-1]])
    assert chain[-1] == "first"
    assert len(chain) == 101


def test_a_promoter_that_dies_in_the_middle_keeps_nobody_out(tmp_path):
    store = PolicyStore.at(tmp_path)
    for version in ("v1", "v2"):
        publish(store, version)
    store.set_champion("eu", "v1", NOW)
    dying = """
import os, sys
from shared.policies.store import PolicyStore
PolicyStore.at(sys.argv[1]).files.change("eu/champion.json", lambda _: os._exit(9))
"""
    ended = subprocess.run([sys.executable, "-c", dying, str(tmp_path)], check=False)
    assert ended.returncode == 9
    assert store.champion("eu").version == "v1"
    assert store.set_champion("eu", "v2", NOW).runner_up == "v1"


def test_the_manifest_is_plain_json(store):
    publish(store)
    content = json.loads(store.files.read("eu/v1/policy.json"))
    assert content["observation_fields"] == list(FleetParameters().observation_fields)
    assert content["created_at"] == "2026-11-22T20:33:01Z"


def test_a_setting_names_a_folder(tmp_path):
    assert PolicyStore.at(str(tmp_path)).files.root == tmp_path


def test_a_setting_that_names_no_folder_is_refused():
    with pytest.raises(BadSetting, match="AUTOPILOT_POLICY_STORE=ftp://policies"):
        PolicyStore.at("ftp://policies")
