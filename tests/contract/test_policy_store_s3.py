"""What only a policy store in S3 can meet: other writers, settings that can't work, silence."""

import asyncio
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime

import boto3
import pytest
import structlog
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.prediction.app import create_app
from shared.bus import Bus
from shared.core.fields import notebook_fields
from shared.errors import BadSetting, PolicyUnfit, StoreAway
from shared.messages import utc_now
from shared.policies import champions as champions_module
from shared.policies import store_s3 as policy_store_s3
from shared.policies.champions import Champions
from shared.policies.store import CHECKPOINT, LITERT_MODEL, MANIFEST, PolicyStore
from shared.policies.store_s3 import S3Files
from shared.settings import Fleets, FleetSettings
from tests.contract.published import PUBLISHED, draft, publish
from tests.eventually import eventually_async
from tests.processes import run

NOW = datetime(2026, 11, 22, 20, 33, 1, tzinfo=UTC)


@pytest.fixture
def store(bucket):
    return PolicyStore.at(f"s3://{bucket}/all/policies")


def keys(bucket):
    client = boto3.client("s3", region_name="us-east-1")
    answer = client.list_objects_v2(Bucket=bucket)
    client.close()
    return [each["Key"] for each in answer.get("Contents", ())]


def upload(store, version):
    with store.writing("eu", version) as folder:
        (folder / LITERT_MODEL).write_bytes(b"a model")
        (folder / CHECKPOINT).mkdir()
        (folder / CHECKPOINT / "weights").write_bytes(b"weights")
        store.publish(draft(version), folder)


@pytest.mark.parametrize("prefix", ["", "/", "/all/policies", "/all/policies/"])
def test_a_prefix_is_where_everything_is(bucket, prefix):
    store = PolicyStore.at(f"s3://{bucket}{prefix}")
    publish(store)
    store.set_champion("eu", "v1", NOW)
    place = "all/policies/" if "all" in prefix else ""
    assert keys(bucket) == [f"{place}eu/{name}" for name in ("champion.json", *PUBLISHED)]
    assert store.fleets() == ["eu"]


def test_the_manifest_goes_up_last_and_is_deleted_first(store, bucket, monkeypatch):
    calls = []
    put, delete = S3Files._put, S3Files._delete
    monkeypatch.setattr(
        S3Files, "_put", lambda files, name, *rest: calls.append(name) or put(files, name, *rest)
    )
    monkeypatch.setattr(
        S3Files, "_delete", lambda files, names: calls.append(names) or delete(files, names)
    )
    upload(store, "v1")
    store.retire("eu", "v1")
    assert calls == [
        f"eu/v1/{CHECKPOINT}/weights",
        f"eu/v1/{LITERT_MODEL}",
        f"eu/v1/{MANIFEST}",
        [f"eu/v1/{MANIFEST}"],
        [f"eu/v1/{CHECKPOINT}/weights", f"eu/v1/{LITERT_MODEL}"],
    ]
    assert keys(bucket) == []


def test_an_upload_that_breaks_off_is_not_seen_and_is_swept(store, bucket, monkeypatch):
    upload(store, "v1")
    put = S3Files._put

    def breaks_off(files, name, content, only):
        if name.endswith(LITERT_MODEL):
            raise StoreAway("the network went")
        put(files, name, content, only)

    with monkeypatch.context() as patch:
        patch.setattr(S3Files, "_put", breaks_off)
        with pytest.raises(StoreAway):
            upload(store, "v2")
    assert store.versions("eu") == ["v1"]
    assert f"all/policies/eu/v2/{CHECKPOINT}/weights" in keys(bucket)
    store.set_champion("eu", "v1", NOW)
    before = [key for key in keys(bucket) if "/v2/" not in key]
    store.sweep("eu")
    assert keys(bucket) == before
    upload(store, "v2")
    assert store.versions("eu") == ["v1", "v2"]


def test_an_upload_that_was_swept_meanwhile_is_not_published(store, monkeypatch):
    put = S3Files._put

    def swept(files, name, content, only):
        put(files, name, content, only)
        if name.endswith("weights"):
            files.sweep("eu", MANIFEST)

    monkeypatch.setattr(S3Files, "_put", swept)
    with pytest.raises(FileNotFoundError, match="was swept"):
        upload(store, "v1")
    assert store.versions("eu") == []


def test_trainers_that_publish_at_once_do_not_mix(store, bucket):
    """Each on its own connection."""
    stores = [PolicyStore.at(f"s3://{bucket}/all/policies") for _ in range(4)]
    ready = threading.Barrier(len(stores))

    def train(number):
        model = bytes([number]) * 1000
        ready.wait()
        publish(stores[number], f"v{number}", model=model)
        stores[number].set_champion("eu", f"v{number}", NOW)

    threads = [threading.Thread(target=train, args=(n,)) for n in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.versions("eu") == ["v0", "v1", "v2", "v3"]
    for number in range(len(stores)):
        manifest = store.manifest("eu", f"v{number}")
        assert store.read(manifest, LITERT_MODEL) == bytes([number]) * 1000


def test_a_pointer_that_moves_under_a_writer_is_read_again(store):
    for version in ("v1", "v2", "v3"):
        publish(store, version)
    store.set_champion("eu", "v1", NOW)
    read = store.files._read
    moved = []

    def moves_after_the_first(name):
        answer = read(name)
        if name.endswith("champion.json") and not moved:
            moved.append(name)
            store.set_champion("eu", "v2", NOW)
        return answer

    store.files._read = moves_after_the_first
    champion = store.set_champion("eu", "v3", NOW)
    assert (champion.version, champion.runner_up) == ("v3", "v2")
    assert store.champion("eu") == champion


def test_an_upload_whose_answers_get_lost_is_complete(store):
    """boto3 sends the call again, which then finds that what it would make is there already."""
    put = store.files._client.put_object

    def put_twice(**request):
        put(**request)
        return put(**request)

    store.files._client.put_object = put_twice
    manifest = publish(store, "v1")
    champion = store.set_champion("eu", "v1", NOW)
    assert store.champion("eu") == champion
    assert store.versions("eu") == ["v1"]
    assert store.read(manifest, LITERT_MODEL) == b"a model"


def test_of_two_that_publish_the_same_version_one_is_refused(store, bucket):
    """Not even a file of the other's gets in."""
    publish(store, "v1", model=b"the first")
    store.files._delete(["eu/v1/policy.json"])
    with pytest.raises(FileExistsError):
        publish(PolicyStore.at(f"s3://{bucket}/all/policies"), "v1", model=b"the second")
    assert store.files.read(f"eu/v1/{LITERT_MODEL}") == b"the first"
    assert store.versions("eu") == []


def test_a_store_of_more_than_one_page(store, monkeypatch):
    """S3 lists and deletes at most 1,000 objects in one call."""
    monkeypatch.setattr(policy_store_s3, "DELETED_PER_CALL", 2)
    store.files._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2}
    )
    for number in range(5):
        store.files.change(f"eu/v0/{number}", lambda _: b"")
    publish(store, "v1")
    assert store.versions("eu") == ["v1"]
    store.sweep("eu")
    assert {name.split("/")[0] for name in store.files.names("eu")} == {"v1"}


def test_the_command_line_works_on_it(store, redis_url, publish_policy):
    for version in ("v1", "v2", "v3"):
        publish_policy(store, version)
    variables = {"AUTOPILOT_POLICY_STORE": str(store.files), "AUTOPILOT_REDIS_URL": redis_url}

    def run(*arguments):
        result = CliRunner().invoke(app, ["policies", *arguments], env=variables)
        assert result.exception is None, result.output
        return result.stdout

    assert "v2" in run("list")
    assert json.loads(run("show", "v1"))["version"] == "v1"
    run("promote", "v1")
    assert store.champion("default").version == "v1"
    run("rollback")
    assert store.champion("default").version == "v3"
    run("retire", "v2")
    assert store.versions("default") == ["v1", "v3"]
    variables["AUTOPILOT_MAX_SERVERS"] = "150"
    assert "ahead" not in run("promote", "v1"), "limits are no part of a policy"
    variables["AUTOPILOT_HISTORY_LEN"] = "7"
    assert "v3: it plans 6 steps ahead" in run("rollback")
    variables["AUTOPILOT_HISTORY_LEN"] = "3"
    refused = CliRunner().invoke(app, ["policies", "promote", "v1"], env=variables)
    assert isinstance(refused.exception, PolicyUnfit)
    assert store.champion("default").version == "v3"
    variables["AUTOPILOT_POLICY_STORE"] = "s3://nowhere/p"
    refused = CliRunner().invoke(app, ["policies", "list"], env=variables)
    assert isinstance(refused.exception, BadSetting)


# Settings that can't work

REFUSED = {
    "no bucket's name": ("s3://", {}, "names no bucket"),
    "no such bucket": ("s3://nowhere/p", {}, "there is no such bucket"),
    "no name for a bucket": ("s3://no name/p", {}, "Invalid bucket name"),
    "no region": ("s3://policies/p", {"AWS_ENDPOINT_URL": None}, "set AWS_REGION"),
    "no credentials": (
        "s3://policies/p",
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        "there are no AWS credentials",
    ),
    "half the credentials": (
        "s3://policies/p",
        {"AWS_SECRET_ACCESS_KEY": None},
        "missing: AWS_SECRET_ACCESS_KEY",
    ),
    "no endpoint": ("s3://policies/p", {"AWS_ENDPOINT_URL": "not a url"}, "Invalid endpoint"),
}


@pytest.fixture
def variables(moto, bucket, monkeypatch, tmp_path):
    """Sets or removes variables; nothing else tells AWS's library of credentials."""

    def change(given):
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        for name, value in given.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)

    return change


@pytest.mark.parametrize("case", REFUSED)
def test_a_setting_that_cannot_work_is_refused_in_one_line(variables, case):
    location, given, reason = REFUSED[case]
    variables(given)
    with pytest.raises(BadSetting, match=f"AUTOPILOT_POLICY_STORE={location}.*{reason}") as refused:
        PolicyStore.at(location)
    assert "\n" not in str(refused.value)


def test_denied_credentials_are_refused_in_one_line(moto, bucket):
    moto.check_credentials(on=True)
    try:
        with pytest.raises(BadSetting, match="access is denied: check the credentials") as refused:
            PolicyStore.at(f"s3://{bucket}/p")
    finally:
        moto.check_credentials(on=False)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("service", ["prediction", "environment", "trainer"])
def test_a_service_says_so_and_exits_2(variables, service):
    variables({"AUTOPILOT_POLICY_STORE": "s3://nowhere/p"})
    ended = run(f"services.{service}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "no such bucket" in ended.stderr
    assert ended.stdout == ""


# An S3 that is away


def test_an_s3_that_is_away_is_no_wrong_setting(moto, bucket):
    moto.stop()
    with structlog.testing.capture_logs() as logs:
        store = PolicyStore.at(f"s3://{bucket}/p")
    assert [log["event"] for log in logs] == ["policy_store_is_away"]
    with pytest.raises(StoreAway, match=rf"s3://{bucket}/p does not answer"):
        store.champion("eu")
    moto.start()
    assert store.champion("eu") is None


def test_a_bucket_that_goes_is_told(store):
    client = store.files._client
    client.delete_bucket(Bucket="policies")
    with pytest.raises(StoreAway, match="there is no such bucket"):
        store.versions("eu")


async def test_what_serves_goes_on_while_s3_is_away(moto, store, publish_policy, monkeypatch):
    monkeypatch.setattr(champions_module, "RELOAD_SECONDS", 0.01)
    fleets = Fleets({name: FleetSettings(observation="notebook") for name in ("default", "eu")})
    publish_policy(store, "v1")
    champions = Champions(store, fleets)
    await champions.load_all()
    assert champions.policy("default").version == "v1"
    moto.stop()
    with structlog.testing.capture_logs() as logs:
        await champions.load_all()
        await champions.load_all()
    assert [log["event"] for log in logs] == ["policy_store_is_away"]
    assert champions.policy("default").version == "v1"
    assert champions.refused == 0
    moto.start()
    publish_policy(store, "v2")
    publish_policy(store, "v3", "eu")
    reloading = asyncio.create_task(champions.reload())
    await eventually_async(
        lambda: [champions.policy(fleet).version for fleet in fleets.names],
        "the new champions serve",
        holds=lambda served: served == ["v2", "v3"],
    )
    reloading.cancel()


async def test_the_catalogue_says_that_s3_is_away_and_predictions_go_on(
    moto, store, redis_url, client_of, publish_policy
):
    publish_policy(store, "v1", observation_fields=notebook_fields(5))
    fleets = Fleets({"default": FleetSettings(observation="notebook")})
    prediction = create_app(bus=Bus.connect(redis_url), fleets=fleets, store=store, clock=utc_now)
    async with client_of(prediction) as http:
        assert (await http.get("/policies")).json()["champion"]["version"] == "v1"
        moto.stop()
        refused = await http.get("/policies")
        assert refused.status_code == 503
        assert "does not answer" in refused.json()["detail"]
        assert refused.headers["Retry-After"] == "1"
        answer = await http.post("/invocations", json=[50.0] * 10)
        assert answer.json()["policy_version"] == "v1"


async def test_a_lost_redis_finds_its_champions_in_the_store(store, publish_policy):
    """Nothing is on the bus: a service that starts knows every fleet's champion."""
    fleets = Fleets({name: FleetSettings(observation="notebook") for name in ("default", "eu")})
    publish_policy(store, "v1")
    publish_policy(store, "v2", "eu")
    champions = Champions(store, fleets)
    await champions.load_all()
    assert [champions.policy(name).version for name in fleets.names] == ["v1", "v2"]


def test_boto3_is_only_imported_where_the_store_is_in_s3(tmp_path):
    code = (
        "import sys, services.prediction.__main__, services.environment.__main__\n"
        "from shared.policies.store import PolicyStore\n"
        f"PolicyStore.at({str(tmp_path)!r}).versions('default')\n"
        "print('boto3' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
