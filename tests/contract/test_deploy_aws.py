"""deploy/aws: what is watched is put; what a service needs is allowed by IAM, and no more."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from prometheus_client import CollectorRegistry

from services.metrics.cloudwatch import CloudWatch, connect
from shared.errors import BadSetting, StoreAway
from shared.messages import TrainingOutcome, Transition
from shared.policies.store import PolicyStore, new_version
from shared.settings import Settings
from tests.contract.published import publish

AWS = Path(__file__).parents[2] / "deploy" / "aws"
NAMESPACE = Settings.model_fields["cloudwatch_namespace"].default
NOW = datetime.now(UTC)
STORE = "s3://policies/policies"


@pytest.fixture
def service(moto):
    """A client of any of AWS's services."""
    clients = []

    def client(name):
        clients.append(boto3.client(name, region_name="us-east-1"))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


class _Loader(yaml.SafeLoader):
    """Takes `!Ref` and `!Sub`; of the other functions, which no test asks about, the argument."""


def _function(loader, tag, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        return {"Ref": value} if tag == "Ref" else {"Sub": value} if tag == "Sub" else value
    return loader.construct_sequence(node, deep=True)


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def resources():
    """The template's resources, with its parameters' defaults in them, for the fleet `eu`."""
    template = yaml.load((AWS / "template.yaml").read_text(), _Loader)
    parameters = {name: of["Default"] for name, of in template["Parameters"].items()}
    parameters["Fleet"] = "eu"

    def resolved(value):
        if isinstance(value, list):
            return [resolved(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "Ref" in value:
            return parameters.get(value["Ref"], value["Ref"])
        if "Sub" in value:
            return re.sub(r"\$\{(.*?)\}", lambda m: parameters.get(m[1], m[1]), value["Sub"])
        return {key: resolved(each) for key, each in value.items()}

    return resolved(template["Resources"])


def properties(resources, kind):
    """Of every resource of a kind."""
    return [each["Properties"] for each in resources.values() if each["Type"] == f"AWS::{kind}"]


async def every_metric_put(service):
    """Name and dimensions of all that the sidecar puts, of a fleet in every condition."""
    numbers = {
        "fleet": "eu",
        "observation": (10.0,) * 10,
        "action": 0.5,
        "target": 30.0,
        "demand": 40.0,
        "reported_demand": 40.0,
        "allocation": 30.0,
        "reward": -1.0,
        "next_observation": (10.0,) * 10,
        "policy_version": new_version(NOW),
    }
    steps = [Transition(step=n, at=NOW + timedelta(seconds=n), **numbers) for n in (1, 2)]
    training = TrainingOutcome(
        fleet="eu", at=NOW, outcome="failed", seconds=1.0, environment_steps=0
    )
    client = connect("us-east-1")
    cloudwatch = CloudWatch(client, NAMESPACE, CollectorRegistry(), lambda: NOW)
    await cloudwatch.put([*steps, training])
    client.close()
    listed = service("cloudwatch").list_metrics()["Metrics"]
    return {
        (m["Namespace"], m["MetricName"], *((d["Name"], d["Value"]) for d in m["Dimensions"]))
        for m in listed
    }


async def test_every_alarm_watches_a_metric_that_the_sidecar_puts(service, resources):
    watched = {
        (a["Namespace"], a["MetricName"], *((d["Name"], d["Value"]) for d in a["Dimensions"]))
        for a in properties(resources, "CloudWatch::Alarm")
    }
    assert {name for _, name, _ in watched} == {
        "unserved_servers",
        "idle_servers",
        "stale_steps",
        "failed_trainings",
    }
    assert watched <= await every_metric_put(service)


async def test_keda_asks_cloudwatch_for_a_metric_that_the_sidecar_puts(service):
    page = yaml.safe_load_all((AWS.parent / "keda/cloudwatch.yaml").read_text())
    (scaled,) = (each for each in page if each["kind"] == "ScaledObject")
    asked = scaled["spec"]["triggers"][0]["metadata"]
    dimension = (asked["dimensionName"], asked["dimensionValue"].replace("default", "eu"))
    assert (asked["namespace"], asked["metricName"], dimension) in await every_metric_put(service)


async def test_the_dashboard_shows_every_metric_that_the_sidecar_puts_and_no_other(
    service, resources
):
    (dashboard,) = properties(resources, "CloudWatch::Dashboard")
    cloudwatch = service("cloudwatch")
    cloudwatch.put_dashboard(DashboardName="eu", DashboardBody=dashboard["DashboardBody"])
    body = json.loads(cloudwatch.get_dashboard(DashboardName="eu")["DashboardBody"])
    shown = set()
    for widget in body["widgets"]:
        for namespace, name, *rest in widget["properties"].get("metrics", ()):
            dimensions = [each for each in rest if isinstance(each, str)]
            shown.add((namespace, name, *zip(dimensions[::2], dimensions[1::2], strict=True)))
    assert shown == await every_metric_put(service)
    (alarms,) = (w["properties"]["alarms"] for w in body["widgets"] if w["type"] == "alarm")
    names = [name for name, of in resources.items() if of["Type"] == "AWS::CloudWatch::Alarm"]
    assert sorted(alarms) == sorted(f"{name}.Arn" for name in names)


def test_the_bucket_is_encrypted_private_and_never_forgets_what_serves(resources):
    (bucket,) = properties(resources, "S3::Bucket")
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    rules = bucket["LifecycleConfiguration"]["Rules"]
    assert not any("ExpirationInDays" in rule or "ExpirationDate" in rule for rule in rules)
    assert resources["Policies"]["DeletionPolicy"] == "Retain"


def statements(service_name):
    """A service's policy for the bucket `policies`."""
    text = (AWS / "iam" / f"{service_name}.json").read_text()
    for placeholder, value in (
        ("BUCKET", "policies"),
        ("PREFIX", "policies"),
        ("NAMESPACE", NAMESPACE),
    ):
        text = text.replace(placeholder, value)
    return json.loads(text)


@pytest.fixture
def become(moto, service, bucket, monkeypatch):
    """Go on with the credentials of a user who has one service's policy, and no more."""

    def become(service_name):
        iam = service("iam")
        document = statements(service_name)
        for statement in document["Statement"]:
            # What moto does otherwise than AWS: it does not know the conditions' keys, has a name
            # of its own for CloudWatch, and asks for the bucket where objects are deleted.
            statement.pop("Condition", None)
            if statement["Action"] == "cloudwatch:PutMetricData":
                statement["Action"] = "monitoring:PutMetricData"
            if "s3:DeleteObject" in statement["Action"]:
                statement["Resource"] = [statement["Resource"], "arn:aws:s3:::policies"]
        iam.create_user(UserName=service_name)
        iam.put_user_policy(
            UserName=service_name, PolicyName="own", PolicyDocument=json.dumps(document)
        )
        key = iam.create_access_key(UserName=service_name)["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        moto.check_credentials(on=True)

    yield become
    moto.check_credentials(on=False)


def test_the_trainers_policy_allows_all_that_a_store_does(become):
    become("trainer")
    store = PolicyStore.at(STORE)
    publish(store, "v1")
    publish(store, "v2")
    store.set_champion("eu", "v2", NOW)
    store.retire("eu", "v1")
    store.sweep("eu")
    assert store.fleets() == ["eu"]
    assert store.versions("eu") == ["v2"]
    with store.fetched("eu", "v2") as folder:
        assert (folder / "policy.tflite").is_file()
    with pytest.raises(BadSetting, match="access is denied"):
        PolicyStore.at("s3://another/policies")


@pytest.mark.parametrize("reader", ["prediction", "environment"])
def test_a_readers_policy_allows_to_read_and_no_more(become, bucket, reader):
    before = PolicyStore.at(STORE)
    manifest = publish(before, "v1")
    champion = before.set_champion("eu", "v1", NOW)
    become(reader)
    store = PolicyStore.at(STORE)
    assert store.champion("eu") == champion
    assert store.champion("us") is None
    assert store.read(manifest, "policy.tflite") == b"a model"
    assert store.versions("eu") == ["v1"]
    for write in (
        lambda: store.set_champion("eu", "v1", NOW),
        lambda: publish(store, "v2"),
        lambda: store.files.remove("eu/v1", "policy.json"),
    ):
        with pytest.raises(StoreAway, match=r"access is denied|S3 says AccessDenied"):
            write()


def test_the_metrics_policy_allows_to_put_and_no_more(become, moto):
    become("metrics")
    client = connect("us-east-1")
    data = [{"MetricName": "reward", "Value": 1.0}]
    client.put_metric_data(Namespace=NAMESPACE, MetricData=data)
    with pytest.raises(ClientError, match="not authorized to perform: monitoring:ListMetrics"):
        client.list_metrics()
    client.close()
    with pytest.raises(BadSetting, match="access is denied"):
        PolicyStore.at(STORE)


@pytest.mark.parametrize("path", sorted(AWS.glob("iam/*.json")), ids=lambda path: path.stem)
def test_no_policy_allows_everything(path):
    for statement in statements(path.stem)["Statement"]:
        actions = statement["Action"]
        assert "*" not in json.dumps(actions)
        # An action that knows no resource is held by a condition.
        assert statement["Resource"] != "*" or "Condition" in statement
    places = json.dumps(statements(path.stem))
    assert "BUCKET" not in places
    assert "PREFIX" not in places
