"""The sidecar and CloudWatch, which moto's server plays over HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import boto3
import httpx
import psutil
import pytest
import redis
from botocore.stub import Stubber
from prometheus_client import CollectorRegistry

from services.metrics.cloudwatch import CloudWatch, connect
from shared.bus import Bus
from shared.errors import BadSetting
from shared.messages import Transition
from tests.conftest import free_port
from tests.platform.test_metrics import START, TEN, commit, sidecar, until

NAMESPACE = "rl-game-server-autopilot"
GROUP = "metrics-cloudwatch"
NAMES = ("curr_demand", "curr_alloc", "reward", "allocation")


@pytest.fixture
async def bus(redis_url):
    bus = Bus.connect(redis_url)
    yield bus
    await bus.close()


@pytest.fixture
def raw(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def client(moto):
    client = connect("us-east-1")
    yield client
    client.close()


def cloudwatch(client, registry, clock=lambda: START + timedelta(hours=1)):
    return CloudWatch(client, NAMESPACE, registry, clock, retry_s=0.05)


def statistics(client, name, fleet=None):
    """Sum and count of everything put under a name."""
    dimensions = [] if fleet is None else [{"Name": "fleet", "Value": fleet}]
    points = client.get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=name,
        Dimensions=dimensions,
        StartTime=START - timedelta(days=1),
        EndTime=START + timedelta(days=1),
        Period=60,
        Statistics=["Sum", "SampleCount"],
    )["Datapoints"]
    total, count = (sum(point[what] for point in points) for what in ("Sum", "SampleCount"))
    return total, count


async def until_taken(client, count, name="reward"):
    for _ in range(400):
        if statistics(client, name)[1] >= count:
            break
        await asyncio.sleep(0.025)
    assert statistics(client, name)[1] == count


async def until_acknowledged(raw):
    for _ in range(400):
        if raw.xpending("autopilot:transitions", GROUP)["pending"] == 0:
            break
        await asyncio.sleep(0.025)
    assert raw.xpending("autopilot:transitions", GROUP)["pending"] == 0


async def test_every_step_is_in_cloudwatch_once(bus, raw, redis_url, client, client_of):
    steps = [await commit(bus, step) for step in range(1, 21)]
    registry = CollectorRegistry()
    put = cloudwatch(client, registry).put
    async with client_of(sidecar(redis_url, put, registry)) as http:
        await until_taken(client, 20)
        steps += [await commit(bus, step) for step in range(21, 31)]
        await until_taken(client, 30)
        await until_acknowledged(raw)
        await until(http, {"autopilot_cloudwatch_steps_total{}": 30.0})
    expected = {
        "curr_demand": sum(step.demand for step in steps),
        # The notebook's name for the new target.
        "curr_alloc": sum(step.target for step in steps),
        "reward": sum(step.reward for step in steps),
        "allocation": sum(step.allocation for step in steps),
    }
    for name in NAMES:
        assert statistics(client, name) == (pytest.approx(expected[name]), 30)


async def test_a_value_has_the_time_of_its_step(bus, redis_url, client, client_of):
    step = await commit(bus, 1, reward=-7.0)
    registry = CollectorRegistry()
    async with client_of(sidecar(redis_url, cloudwatch(client, registry).put, registry)):
        await until_taken(client, 1)
    (point,) = client.get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName="reward",
        StartTime=step.at,
        EndTime=step.at + timedelta(seconds=1),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    assert point["Sum"] == -7.0


async def test_the_notebooks_fleet_has_no_dimension_and_the_others_have_theirs(
    bus, redis_url, client, client_of
):
    await commit(bus, 1, "default", reward=-1.0)
    await commit(bus, 1, "eu", reward=-10.0)
    registry = CollectorRegistry()
    async with client_of(sidecar(redis_url, cloudwatch(client, registry).put, registry)):
        await until_taken(client, 2)
    assert statistics(client, "reward", "eu") == (-10.0, 1)
    kept = client.list_metrics(Namespace=NAMESPACE, MetricName="reward")["Metrics"]
    dimensions = sorted([(d["Name"], d["Value"]) for d in metric["Dimensions"]] for metric in kept)
    assert dimensions == [[], [("fleet", "eu")]]


async def test_prometheus_goes_on_while_cloudwatch_is_away_and_nothing_is_lost(
    bus, raw, redis_url, client, client_of, moto
):
    moto.stop()
    registry = CollectorRegistry()
    put = cloudwatch(client, registry).put
    async with client_of(sidecar(redis_url, put, registry)) as http:
        for step in range(1, 11):
            await commit(bus, step)
        samples = await until(http, {"autopilot_steps_total{fleet=default}": 10.0})
        await commit(bus, 11)
        await until(http, {"autopilot_demand{fleet=default}": 51.0})
        for _ in range(200):
            samples = await until(http, {})
            if samples["autopilot_cloudwatch_failed_calls_total{}"] >= 2:
                break
            await asyncio.sleep(0.025)
        assert samples["autopilot_cloudwatch_failed_calls_total{}"] >= 2
        assert samples["autopilot_cloudwatch_steps_total{}"] == 0
        assert raw.xpending("autopilot:transitions", GROUP)["pending"] > 0
        moto.start()
        await until_taken(client, 11)
        await until_acknowledged(raw)
    assert statistics(client, "curr_demand") == (pytest.approx(40 * 11 + 66), 11)


async def test_a_restarted_sidecar_puts_what_it_had_not_acknowledged(
    bus, raw, redis_url, client, client_of, moto
):
    moto.stop()
    for step in (1, 2, 3):
        await commit(bus, step)
    registry = CollectorRegistry()
    async with client_of(sidecar(redis_url, cloudwatch(client, registry).put, registry)):
        for _ in range(200):
            if raw.exists("autopilot:transitions") and raw.xinfo_groups("autopilot:transitions"):
                groups = {g["name"]: g for g in raw.xinfo_groups("autopilot:transitions")}
                if groups.get(GROUP.encode(), {}).get("pending") == 3:
                    break
            await asyncio.sleep(0.025)
        assert raw.xpending("autopilot:transitions", GROUP)["pending"] == 3
    moto.start()
    await commit(bus, 4)
    registry = CollectorRegistry()
    async with client_of(sidecar(redis_url, cloudwatch(client, registry).put, registry)):
        await until_taken(client, 4)
        await until_acknowledged(raw)
    assert statistics(client, "curr_demand") == (pytest.approx(41 + 42 + 43 + 44), 4)


async def test_a_step_does_not_wait_for_a_cloudwatch_that_hangs(
    bus, redis_url, client_of, monkeypatch, moto
):
    """It takes the connection and says nothing; the environment commits, Prometheus shows."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("services.metrics.cloudwatch.READ_SECONDS", 0.5)
        client = connect("us-east-1")
        registry = CollectorRegistry()
        put = cloudwatch(client, registry).put
        async with client_of(sidecar(redis_url, put, registry)) as http:
            for step in range(1, 51):
                async with asyncio.timeout(0.3):
                    await commit(bus, step)
                async with asyncio.timeout(0.3):
                    await http.get("/healthz")
            await until(http, {"autopilot_steps_total{fleet=default}": 50.0})
        client.close()


def a_step(number, at=START, fleet="default"):
    return Transition(
        fleet=fleet,
        step=number,
        at=at,
        observation=TEN,
        action=0.5,
        target=50.0,
        demand=40.0,
        reported_demand=40.0,
        allocation=30.0,
        reward=-1.0,
        next_observation=TEN,
        policy_version="v1",
    )


async def test_no_call_has_more_than_a_thousand_values(client):
    sizes = []
    client.meta.events.register(
        "provide-client-params.cloudwatch.PutMetricData",
        lambda params, **_: sizes.append(len(params["MetricData"])),
    )
    await cloudwatch(client, CollectorRegistry()).put([a_step(n) for n in range(1, 601)])
    assert sizes == [1000, 1000, 400]
    assert statistics(client, "curr_demand") == (600 * 40.0, 600)


async def test_a_step_older_than_cloudwatch_takes_does_not_hold_up_the_others(client):
    registry = CollectorRegistry()
    old, new = a_step(1, START - timedelta(days=14)), a_step(2, START)
    await cloudwatch(client, registry, clock=lambda: START).put([old, new])
    assert statistics(client, "reward") == (-1.0, 1)
    assert registry.get_sample_value("autopilot_cloudwatch_refused_steps_total") == 1.0


async def test_what_cloudwatch_refuses_for_good_does_not_hold_up_the_others(client):
    registry = CollectorRegistry()
    with Stubber(client) as stub:
        stub.add_client_error("put_metric_data", "InvalidParameterValue", http_status_code=400)
        await cloudwatch(client, registry).put([a_step(1)])
        stub.assert_no_pending_responses()
    assert registry.get_sample_value("autopilot_cloudwatch_refused_steps_total") == 1.0
    assert registry.get_sample_value("autopilot_cloudwatch_failed_calls_total") == 0.0


@pytest.mark.parametrize("code", ["AccessDenied", "Throttling", "InternalFailure", "ExpiredToken"])
async def test_what_may_pass_is_tried_again(client, code):
    registry = CollectorRegistry()
    with Stubber(client) as stub:
        stub.add_client_error("put_metric_data", code, http_status_code=400)
        stub.add_client_error("put_metric_data", code, http_status_code=400)
        stub.add_response("put_metric_data", {})
        await cloudwatch(client, registry).put([a_step(1)])
        stub.assert_no_pending_responses()
    assert registry.get_sample_value("autopilot_cloudwatch_failed_calls_total") == 2.0
    assert registry.get_sample_value("autopilot_cloudwatch_steps_total") == 1.0


async def test_missing_credentials_are_tried_again(moto, monkeypatch, tmp_path):
    """They may be a role's, which arrive later."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    registry = CollectorRegistry()
    putting = asyncio.create_task(cloudwatch(connect("us-east-1"), registry).put([a_step(1)]))
    for _ in range(200):
        if registry.get_sample_value("autopilot_cloudwatch_failed_calls_total") >= 2:
            break
        await asyncio.sleep(0.02)
    putting.cancel()
    assert registry.get_sample_value("autopilot_cloudwatch_failed_calls_total") >= 2


def test_an_endpoint_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(BadSetting, match="AWS_"):
        connect("us-east-1")


@pytest.fixture
def process(redis_url, moto):
    """Start the sidecar as a process; what is left of it ends with the test."""
    started = []

    def start(**variables):
        environment = {
            **os.environ,
            "AUTOPILOT_REDIS_URL": redis_url,
            "AUTOPILOT_LOG_FORMAT": "json",
            **variables,
        }
        command = [sys.executable, "-m", "services.metrics"]
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


async def serving(port, path, seconds=20):
    """The answer at a path, once the process serves it."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient() as http:
        while True:
            try:
                return await http.get(f"http://127.0.0.1:{port}{path}")
            except httpx.TransportError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)


async def test_the_process_killed_and_started_again(bus, raw, moto, client, process):
    port = free_port()
    moto.stop()
    for step in (1, 2):
        await commit(bus, step)
    killed = process(AUTOPILOT_METRICS_PORT=str(port))
    assert (await serving(port, "/readyz")).status_code == 200
    for _ in range(400):
        groups = {g["name"]: g["pending"] for g in raw.xinfo_groups("autopilot:transitions")}
        if groups.get(GROUP.encode()) == 2:
            break
        await asyncio.sleep(0.025)
    assert groups[GROUP.encode()] == 2
    killed.kill()
    killed.wait()

    moto.start()
    again = process(AUTOPILOT_METRICS_PORT=str(port))
    assert "autopilot_" in (await serving(port, "/metrics")).text
    await until_taken(client, 2)
    await until_acknowledged(raw)
    resident_mb = psutil.Process(again.pid).memory_info().rss / 2**20
    assert resident_mb < 100
    again.send_signal(signal.SIGTERM)
    _, errors = again.communicate(timeout=15)
    assert again.returncode == 0
    assert "Traceback" not in errors


def test_a_wrong_setting_is_one_line_and_exit_2(process):
    refused = process(AUTOPILOT_METRICS_PORT="web")
    _, errors = refused.communicate(timeout=30)
    assert refused.returncode == 2
    assert errors.count("\n") == 1
    assert "AUTOPILOT_METRICS_PORT='web'" in errors


def test_boto3_is_only_imported_where_aws_is_configured():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    code = (
        "import sys; from prometheus_client import CollectorRegistry; "
        "from services.metrics.__main__ import _cloudwatch; "
        "put = _cloudwatch('n', CollectorRegistry()); print(put, 'boto3' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["None", "False"]
