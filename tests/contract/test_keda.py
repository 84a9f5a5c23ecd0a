"""The page of YAML that a user applies, replayed as KEDA would against real processes."""

import re
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from shared.bus import DECISIONS, Bus
from shared.messages import utc_now
from tests.conftest import a_decision
from tests.eventually import eventually
from tests.keda import TriggerFailed, Workload, gjson, value_at

KEDA = Path(__file__).parents[2] / "deploy/keda"
OURS = Path(__file__).parents[2] / "deploy/eks/components/keda/scaledobjects.yaml"
TOKEN = "a-token"
SECRETS = {"autopilot-token": {"token": TOKEN}}


def manifests(path):
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture
def workload():
    """What follows the fleet `default`, by the page of the README."""
    return Workload(manifests(KEDA / "metrics-api.yaml"), SECRETS, replicas=30)


@pytest.fixture
async def decide(redis_url):
    """Lets the environment decide: so many servers, some seconds ago."""
    bus = Bus.connect(redis_url)
    step = 0

    async def decide(servers, seconds_ago=0.0):
        nonlocal step
        step += 1
        at = utc_now() - timedelta(seconds=seconds_ago)
        decision = a_decision(step=step, target=servers, curr_demand=10.0, decided_at=at)
        await bus.publish(DECISIONS, "default", decision)

    yield decide
    await bus.close()


@pytest.fixture
def prediction(start):
    _, url = start("prediction", api_token=TOKEN)
    return url


def told(url, replicas):
    """Return once the service has heard of what was decided; it follows Redis."""
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def read():
        answer = httpx.get(f"{url}/prediction", headers=headers)
        return answer.json()["Prediction"]["num_of_gameservers"] if answer.is_success else answer

    eventually(read, f"{replicas} are told", holds=lambda servers: servers == replicas)


async def test_the_workload_is_what_the_fleet_is_told(prediction, decide, workload):
    for servers in (83.2, 84.6, 40.0, 41.0, 100.0):
        await decide(servers)
        whole = -int(-servers // 1)
        told(prediction, whole)
        assert workload.poll(prediction) == whole
    assert workload.failures == 0


def test_with_the_tolerance_of_kubernetes_it_would_lag(workload):
    behaviour = workload._spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (workload.desired(32.0), workload.desired(28.0)) == (32, 28)
    for way in behaviour.values():
        del way["tolerance"]
    assert (workload.desired(32.0), workload.desired(28.0)) == (30, 30)


async def test_unsure_is_a_failure_and_the_fallback_takes_over(prediction, decide, workload):
    workload.replicas = 12
    assert [workload.poll(prediction) for _ in range(5)] == [12, 12, 12, 20, 20]
    assert workload.failure == "api returned 503"
    await decide(45.0)
    told(prediction, 45)
    assert workload.poll(prediction) == 45
    assert workload.failures == 0


def failure(workload, url):
    """Why this poll has failed, empty where it has not; the workload stays as it is."""
    assert workload.poll(url) == 45
    return workload.failure if workload.failures else ""


async def test_in_shadow_the_fallback_stands_until_the_command_to_go_live(
    redis_url, autopilot, start, decide, workload
):
    def command(mode):
        variables = {"AUTOPILOT_REDIS_URL": redis_url, "AUTOPILOT_SHADOW": "1"}
        assert autopilot("fleets", mode, "default", **variables).returncode == 0

    _, url = start("prediction", api_token=TOKEN, shadow=1)
    await decide(45.0)
    assert [workload.poll(url) for _ in range(4)] == [30] * 4
    assert workload.failure == "api returned 503"
    command("live")
    told(url, 45)
    assert workload.poll(url) == 45
    command("shadow")
    assert eventually(lambda: failure(workload, url), "a poll fails") == "api returned 503"


async def test_when_decisions_grow_stale_nothing_is_taken_away(decide, start, workload):
    await decide(45.0)
    first, url = start("prediction", api_token=TOKEN)
    told(url, 45)
    assert workload.poll(url) == 45
    first.kill()
    first.wait()
    assert [workload.poll(url) for _ in range(5)] == [45] * 5, "refused connections"
    assert workload.failures == 5
    await decide(45.0, seconds_ago=3_600)
    _, url = start("prediction", api_token=TOKEN)
    eventually(lambda: failure(workload, url), "a 503", holds=lambda it: it == "api returned 503")


async def test_a_wrong_token_is_a_failure(prediction, decide):
    await decide(45.0)
    told(prediction, 45)
    secrets = {"autopilot-token": {"token": "another"}}
    workload = Workload(manifests(KEDA / "metrics-api.yaml"), secrets, replicas=30)
    assert [workload.poll(prediction) for _ in range(4)] == [30] * 4
    assert workload.failure == "api returned 401"


def test_keda_and_prometheus_find_in_the_metrics_what_they_look_for(start):
    _, url = start("metrics")
    scaled = [each for each in manifests(OURS) if each["kind"] == "ScaledObject"]
    wanted = [each["spec"]["triggers"][0]["metadata"] for each in scaled]

    def read():
        text = httpx.get(f"{url}/metrics").text
        return text, [value_at(text, each["valueLocation"], each["format"]) for each in wanted]

    text, found = eventually(read, "both are known", not_yet=(TriggerFailed,))
    assert found == [1.0, 0.0], "a fleet, and no training job"
    (page,) = manifests(KEDA / "prometheus.yaml")
    asked = re.findall(r"autopilot_\w+", page["spec"]["triggers"][0]["metadata"]["query"])
    assert asked
    assert set(asked) <= set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def test_trainers_are_only_taken_away_when_there_is_no_job():
    (ours,) = (each for each in manifests(OURS) if each["metadata"]["name"] == "trainer")
    behaviour = ours["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"] == {"selectPolicy": "Disabled"}
    assert "fallback" not in ours["spec"]


@pytest.mark.parametrize("page", ["prometheus", "cloudwatch"])
def test_the_other_pages_differ_by_their_trigger_alone(page):
    (same,) = (m for m in manifests(KEDA / "metrics-api.yaml") if m["kind"] == "ScaledObject")
    (other,) = (m for m in manifests(KEDA / f"{page}.yaml") if m["kind"] == "ScaledObject")
    for each in (same, other):
        (trigger,) = each["spec"].pop("triggers")
        assert trigger["metricType"] == "AverageValue"
        each["spec"].pop("pollingInterval")
    assert same == other


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", 1),
        ("a.c.1", 3),
        (r"a.d\.e", 4),
        ("a.c.2", None),
        ("a.x", None),
        ("a.b.x", None),
        ("f", "5"),
    ],
)
def test_gjson(path, found):
    assert gjson({"a": {"b": 1, "c": [2, 3], "d.e": 4}, "f": "5"}, path) == found


@pytest.mark.parametrize("body", ['{"v": true}', '{"v": null}', '{"v": "many"}', "{}", "no"])
def test_what_is_no_number_is_a_failure(body):
    with pytest.raises(TriggerFailed):
        value_at(body, "v", "json")
