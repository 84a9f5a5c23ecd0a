"""The sidecar and CloudWatch, which moto's server plays over HTTP."""

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import httpx
import psutil
import pytest
import structlog
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from prometheus_client import CollectorRegistry
from redis.exceptions import ResponseError

from services.cli.supervision import service_command
from services.metrics.cloudwatch import CloudWatch, connect
from services.metrics.cloudwatch_values import VALUES_PER_STEP, step_values
from shared.bus import TRAININGS, TRANSITIONS_LENGTH, keys
from shared.errors import BadSetting
from shared.messages import LeadTimes, Supply, TrainingOutcome, Transition
from shared.policies.store import new_version
from shared.settings import FleetSettings
from tests.conftest import TEN, free_port
from tests.eventually import eventually_async
from tests.platform.sidecar import START, commit, scrape, sidecar, until

NAMESPACE = "rl-game-server-autopilot"
GROUP = "metrics-cloudwatch"


@pytest.fixture
def client(moto):
    client = connect("us-east-1")
    yield client
    client.close()


def cloudwatch(client, registry, clock=lambda: START + timedelta(hours=1)):
    return CloudWatch(client, NAMESPACE, registry, clock, retry_s=0.05)


def statistics(client, name, fleet=None):
    """Sum and count of everything put under a name."""
    dimensions = [] if fleet is None else [{"Name": "Fleet", "Value": fleet}]
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


async def until_taken(client, count, name="reward", fleet=None):
    taken = await eventually_async(
        lambda: statistics(client, name, fleet)[1], f"{count} {name}", holds=lambda it: it >= count
    )
    assert taken == count


async def until_acknowledged(raw, stream="autopilot:transitions"):
    await eventually_async(
        lambda: raw.xpending(stream, GROUP)["pending"],
        "all are acknowledged",
        holds=lambda pending: pending == 0,
    )


async def until_pending(raw, count):
    """So many steps have been read and are not acknowledged."""

    def pending():
        groups = raw.xinfo_groups("autopilot:transitions")
        return {group["name"]: group["pending"] for group in groups}.get(GROUP.encode())

    await eventually_async(
        pending, f"{count} are pending", holds=lambda it: it == count, not_yet=(ResponseError,)
    )


async def until_failed(http):
    """Two calls at least that CloudWatch has not taken."""
    return await eventually_async(
        lambda: scrape(http),
        "two failed calls",
        holds=lambda samples: samples["autopilot_cloudwatch_failed_calls_total{}"] >= 2,
    )


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
    told = [max(step.target, step.demand) for step in steps]
    notebook = {
        "curr_demand": sum(step.demand for step in steps),
        # The notebook's name for the new target.
        "curr_alloc": sum(step.target for step in steps),
        "reward": sum(step.reward for step in steps),
        "curr_alloc_norm": sum(told),
        "num_of_gs": sum(map(math.ceil, told)),
    }
    ours = {
        "demand": sum(step.demand for step in steps),
        "target": sum(step.target for step in steps),
        "allocation": sum(step.allocation for step in steps),
        "unserved_servers": sum(max(s.reported_demand - s.allocation, 0) for s in steps),
        "idle_servers": sum(max(s.allocation - s.reported_demand, 0) for s in steps),
        "stale_steps": 0,
    }
    for name, total in notebook.items():
        assert statistics(client, name) == (pytest.approx(total), 30)
    for name, total in ours.items():
        assert statistics(client, name, "default") == (pytest.approx(total), 30)


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


async def test_the_notebooks_metrics_have_no_dimension_and_a_fleets_have_theirs(
    bus, redis_url, client, client_of
):
    """No name is in both: who asks for one without naming a fleet gets every step once."""
    await commit(bus, 1, "default", reward=-1.0, allocation=20.0)
    await commit(bus, 1, "eu", reward=-10.0, allocation=30.0)
    registry = CollectorRegistry()
    async with client_of(sidecar(redis_url, cloudwatch(client, registry).put, registry)):
        await until_taken(client, 2)
    assert statistics(client, "reward") == (-11.0, 2)
    assert statistics(client, "allocation", "default") == (20.0, 1)
    assert statistics(client, "allocation", "eu") == (30.0, 1)
    kept = {True: set(), False: set()}
    for metric in client.list_metrics(Namespace=NAMESPACE)["Metrics"]:
        kept[bool(metric["Dimensions"])].add(metric["MetricName"])
    assert kept[False] == {"curr_demand", "curr_alloc", "reward", "curr_alloc_norm", "num_of_gs"}
    assert {"target", "allocation", "unserved_servers", "idle_servers"} < kept[True]
    assert kept[True] & kept[False] == set()


async def test_a_training_is_put_once_it_has_ended(bus, raw, redis_url, client, client_of, moto):
    """Also what ended while CloudWatch was away, or the sidecar was."""

    async def end(minutes, outcome, seconds, fleet="eu"):
        at = START + timedelta(minutes=minutes)
        message = TrainingOutcome(
            fleet=fleet, at=at, outcome=outcome, seconds=seconds, environment_steps=1_000
        )
        await bus.publish(TRAININGS, fleet, message)

    moto.stop()
    await end(1, "published", 20.0)
    await end(2, "failed", 1.5)
    registry = CollectorRegistry()
    put = cloudwatch(client, registry).put
    async with client_of(sidecar(redis_url, put, registry)) as http:
        await until_failed(http)
        await end(3, "kept", 10.0)
        await end(3, "failed", 2.0, "us")
        moto.start()
        await until_taken(client, 3, "training_seconds", "eu")
        await until_taken(client, 1, "training_seconds", "us")
        await until_acknowledged(raw, "autopilot:training:changes")
        await until(http, {"autopilot_cloudwatch_steps_total{}": 0.0})
    assert statistics(client, "training_seconds", "eu") == (31.5, 3)
    assert statistics(client, "failed_trainings", "eu") == (1.0, 3)
    assert statistics(client, "failed_trainings", "us") == (1.0, 1)


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
        samples = await until_failed(http)
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
        await until_pending(raw, 3)
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
    """It takes the connection and says nothing for a minute; commits go on, Prometheus shows."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("services.metrics.cloudwatch.READ_SECONDS", 60)
        client = connect("us-east-1")
        registry = CollectorRegistry()
        put = cloudwatch(client, registry).put
        async with client_of(sidecar(redis_url, put, registry)) as http:
            for step in range(1, 51):
                async with asyncio.timeout(20):
                    await commit(bus, step)
                async with asyncio.timeout(20):
                    await http.get("/healthz")
            await until(http, {"autopilot_steps_total{fleet=default}": 50.0})
        client.close()


def a_step(number, at=START, fleet="default", **changes):
    fields = {
        "fleet": fleet,
        "step": number,
        "at": at,
        "observation": TEN,
        "action": 0.5,
        "target": 50.0,
        "demand": 40.0,
        "reported_demand": 40.0,
        "allocation": 30.0,
        "reward": -1.0,
        "next_observation": TEN,
        "policy_version": "v1",
    }
    return Transition(**(fields | changes))


def watch_calls(client):
    """What each call of `client` puts, and the size of its body before it is compressed."""
    calls, sizes = [], []
    events = client.meta.events
    events.register(
        "provide-client-params.cloudwatch.PutMetricData",
        lambda params, **_: calls.append(params["MetricData"]),
    )
    events.register(
        "before-call.cloudwatch.PutMetricData",
        lambda params, **_: sizes.append(len(params["body"])),
    )
    return calls, sizes


async def test_no_call_is_larger_than_cloudwatch_takes(client, monkeypatch):
    """At most 1,000 values and 1 MB, with the longest of all names, and every metric there is."""
    monkeypatch.setenv("AWS_DISABLE_REQUEST_COMPRESSION", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    plain = connect("us-east-1")
    calls, sizes = watch_calls(plain)
    version = new_version(START - timedelta(days=1 / 3))
    longest = {
        "fleet": "f" * 63,
        "demand": 60.0 + 1 / 3,
        "policy_version": version,
        "supply": Supply(allocated=40, ready=9),
        "lead_times": LeadTimes(measured_s=400 / 3, assumed_s=325),
    }
    steps = [a_step(n, at=START + timedelta(microseconds=n), **longest) for n in range(1, 601)]
    await cloudwatch(plain, CollectorRegistry()).put(steps)
    plain.close()
    assert [len(values) for values in calls] == [17 * 58] * 10 + [17 * 20]
    assert 100_000 < max(sizes) < 400_000
    assert statistics(client, "curr_demand") == (pytest.approx(600 * (60 + 1 / 3)), 600)
    assert statistics(client, "false-positive") == (600.0, 600)


async def test_values_arrive_in_the_order_of_their_steps(client):
    calls, _ = watch_calls(client)
    steps = [a_step(n, at=START + timedelta(seconds=n)) for n in range(1, 201)]
    await cloudwatch(client, CollectorRegistry()).put(steps)
    times = [value["Timestamp"] for values in calls for value in values]
    assert times == sorted(times)
    assert len(set(times)) == 200


async def test_a_target_below_the_demand_is_a_false_positive(client):
    """As the notebook's server has it: raised to the demand, and put only then."""
    steps = [
        a_step(1, target=50.0, demand=40.0),
        a_step(2, target=30.0, demand=40.25),
        a_step(3, target=40.0, demand=40.0),
    ]
    await cloudwatch(client, CollectorRegistry()).put(steps)
    assert statistics(client, "false-positive") == (1.0, 1)
    assert statistics(client, "curr_alloc_norm") == (50 + 40.25 + 40, 3)
    assert statistics(client, "num_of_gs") == (50 + 41 + 40, 3)
    assert statistics(client, "curr_alloc") == (50 + 30 + 40, 3)


async def test_a_step_without_demand_is_stale_and_neither_idle_nor_unserved(client):
    await cloudwatch(client, CollectorRegistry()).put(
        [a_step(1), a_step(2, allocation=44.5), a_step(3, stale=True, reported_demand=90.0)]
    )
    assert statistics(client, "stale_steps", "default") == (1.0, 3)
    assert statistics(client, "unserved_servers", "default") == (10.0, 3)
    assert statistics(client, "idle_servers", "default") == (4.5, 3)


async def test_a_policys_age_is_since_it_was_made_and_a_rule_has_none(client):
    version = new_version(START - timedelta(hours=1))
    await cloudwatch(client, CollectorRegistry()).put(
        [
            a_step(1, policy_version="rule:trend"),
            a_step(2, policy_version=version),
            a_step(3, at=START + timedelta(seconds=65), policy_version=version),
        ]
    )
    assert statistics(client, "policy_age_seconds", "default") == (3600 + 3665, 2)


async def test_the_servers_that_are_really_there_and_the_time_they_take(client):
    lead_times = LeadTimes(measured_s=410, assumed_s=325)
    full = a_step(
        2,
        supply=Supply(allocated=20, ready=8),
        lead_times=lead_times,
        target=30.0,
        demand=40.0,
        policy_version=new_version(START),
    )
    steps = [a_step(1), full, a_step(3, supply=Supply(allocated=21))]
    await cloudwatch(client, CollectorRegistry()).put(steps)
    assert statistics(client, "allocated_servers", "default") == (41.0, 2)
    assert statistics(client, "ready_servers", "default") == (8.0, 1)
    assert statistics(client, "lead_time_seconds", "default") == (410.0, 1)
    assert statistics(client, "assumed_lead_time_seconds", "default") == (325.0, 1)
    assert len(list(step_values(full))) == VALUES_PER_STEP


@pytest.mark.parametrize("off", [-timedelta(days=14), timedelta(hours=2)])
async def test_a_step_of_a_time_that_cloudwatch_does_not_take_is_dropped_counted_and_logged(
    client, off
):
    registry = CollectorRegistry()
    with structlog.testing.capture_logs() as logs:
        await cloudwatch(client, registry, clock=lambda: START).put(
            [a_step(1, START + off), a_step(2, START)]
        )
    assert statistics(client, "reward") == (-1.0, 1)
    assert registry.get_sample_value("autopilot_cloudwatch_refused_steps_total") == 1.0
    assert registry.get_sample_value("autopilot_cloudwatch_steps_total") == 1.0
    (told,) = logs
    assert (told["event"], told["dropped"]) == ("cloudwatch_takes_no_such_time", 1)


async def test_what_cloudwatch_refuses_for_good_does_not_hold_up_the_others(client):
    registry = CollectorRegistry()
    with Stubber(client) as stub:
        stub.add_client_error("put_metric_data", "InvalidParameterValue", http_status_code=400)
        await cloudwatch(client, registry).put([a_step(1)])
        stub.assert_no_pending_responses()
    assert registry.get_sample_value("autopilot_cloudwatch_refused_steps_total") == 1.0
    assert registry.get_sample_value("autopilot_cloudwatch_failed_calls_total") == 0.0


async def test_nothing_is_put_of_messages_of_which_one_has_no_values(client):
    """They are handed over one by one then: what is put already would be put twice."""
    calls, _ = watch_calls(client)
    steps = [a_step(n) for n in range(1, 201)]
    supply = Supply.model_construct(allocated=10**400, ready=None)
    steps[-1] = steps[-1].model_copy(update={"supply": supply})
    registry = CollectorRegistry()
    with pytest.raises(OverflowError):
        await cloudwatch(client, registry).put(steps)
    assert calls == []
    assert registry.get_sample_value("autopilot_cloudwatch_steps_total") == 0.0


async def test_what_boto3_itself_refuses_is_refused_for_good(client):
    registry = CollectorRegistry()
    wrong = a_step(1).model_copy(update={"fleet": 7})
    await cloudwatch(client, registry).put([wrong])
    assert registry.get_sample_value("autopilot_cloudwatch_refused_steps_total") == 1.0


async def test_of_a_call_that_is_refused_all_but_the_bad_step_get_in(client):
    registry = CollectorRegistry()
    steps = [a_step(n) for n in range(1, 12)]
    steps[6] = a_step(7, fleet="refused")

    def refuse(params, **_):
        for value in params["MetricData"]:
            if {"Name": "Fleet", "Value": "refused"} in value.get("Dimensions", ()):
                raise ClientError({"Error": {"Code": "InvalidParameterValue"}}, "PutMetricData")

    client.meta.events.register("provide-client-params.cloudwatch.PutMetricData", refuse)
    await cloudwatch(client, registry).put(steps)
    assert statistics(client, "reward") == (-10.0, 10)
    assert registry.get_sample_value("autopilot_cloudwatch_refused_steps_total") == 1.0
    assert registry.get_sample_value("autopilot_cloudwatch_steps_total") == 10.0


async def test_redis_keeps_a_day_of_a_hundred_fleets_within_256_mb(bus, raw):
    """What CloudWatch has not taken: so long may it be away, and so much memory does it cost."""
    steps = 2_000
    for step in range(1, steps + 1):
        await commit(
            bus,
            step,
            "f" * 20,
            target=50.0 + 1 / 3,
            demand=40.0 + 1 / 7,
            reported_demand=40.0 + 1 / 7,
            reward=-100 / 7,
            observation=tuple(50 + n / 7 for n in range(10)),
            next_observation=tuple(50 + n / 7 for n in range(1, 11)),
            policy_version=new_version(START),
        )
    each = raw.memory_usage("autopilot:transitions", samples=0) / steps
    print(f"{each:.0f} bytes a transition")
    assert 100 * 86_400 / FleetSettings().learning_freq <= TRANSITIONS_LENGTH
    assert TRANSITIONS_LENGTH * each < 256 * 2**20


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


class Busy(BaseHTTPRequestHandler):
    """A CloudWatch that refuses the first call: too many at once."""

    calls = 0

    def do_POST(self):
        type(self).calls += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        busy = self.calls == 1
        body = b'{"__type": "Throttling"}' if busy else b"{}"
        self.send_response(400 if busy else 200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


async def test_a_throttled_call_is_sent_again_at_the_pace_that_is_allowed(moto, monkeypatch):
    registry = CollectorRegistry()
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        client = connect("us-east-1")
        await cloudwatch(client, registry).put([a_step(1)])
        server.shutdown()
    assert Busy.calls == 2
    assert registry.get_sample_value("autopilot_cloudwatch_failed_calls_total") == 1.0
    assert client.meta.config.retries["mode"] == "adaptive"
    assert registry.get_sample_value("autopilot_cloudwatch_steps_total") == 1.0
    client.close()


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
    await eventually_async(
        lambda: registry.get_sample_value("autopilot_cloudwatch_failed_calls_total"),
        "two failed calls",
        holds=lambda calls: calls >= 2,
    )
    putting.cancel()


def test_an_endpoint_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(BadSetting, match="AWS_"):
        connect("us-east-1")


@pytest.fixture
def process(redis_url, moto):
    """Start the sidecar by an interpreter of its own; what is left of it ends with the test."""
    started = []

    def start(**variables):
        environment = {
            **os.environ,
            "AUTOPILOT_REDIS_URL": redis_url,
            "AUTOPILOT_LOG_FORMAT": "json",
            **variables,
        }
        started.append(
            subprocess.Popen(
                service_command("services.metrics"),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


async def serving(port, path):
    """The answer at a path, once the process serves it."""
    async with httpx.AsyncClient() as http:
        return await eventually_async(
            lambda: http.get(f"http://127.0.0.1:{port}{path}"),
            f"{path} answers",
            holds=lambda _: True,
            not_yet=(httpx.TransportError,),
        )


async def test_the_process_killed_and_started_again(bus, raw, moto, client, process):
    port = free_port()
    moto.stop()
    for step in (1, 2):
        await commit(bus, step)
    killed = process(AUTOPILOT_METRICS_PORT=str(port))
    assert (await serving(port, "/readyz")).status_code == 200
    await until_pending(raw, 2)
    killed.kill()
    killed.wait()
    raw.pexpire(
        keys.LEADER_LEASE.format(work="metrics"), 1
    )  # as it ends by itself, some seconds later

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
