"""Both HTTP services as processes: start, stop, wrong settings, what they load, who reads them."""

import asyncio
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest

from shared.bus import DECISIONS, Bus
from shared.messages import Decision, Demand, utc_now
from tests.conftest import a_decision
from tests.contract.conftest import START_SECONDS

SERVICES = ["matchmaking", "prediction"]
HEAVY = ("ray", "torch", "tensorflow", "gymnasium", "boto3", "keras")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(start, service, number):
    process, url = start(service)
    with httpx.Client(base_url=url) as client:  # a connection that stays open
        assert client.get("/readyz").status_code == 200
        process.send_signal(number)
        _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert '"level": "error"' not in log


@pytest.mark.parametrize("service", SERVICES)
def test_a_port_in_use_is_one_line_and_exit_2(start, service):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process, _ = start(service, wait=False, port=port)
        _, log = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 2
    assert log.count("\n") == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in log


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("setting", "value"),
    [("redis_url", "nonsense"), ("min_servers", "many"), ("fleets", "/nowhere.toml")],
)
def test_a_wrong_setting_is_one_line_and_exit_2(start, service, setting, value):
    process, _ = start(service, wait=False, **{setting: value})
    _, log = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 2
    assert log.count("\n") == 1
    assert f"AUTOPILOT_{setting.upper()}={value}" in log or f"'{value}'" in log


@pytest.mark.parametrize("service", SERVICES)
def test_it_starts_without_redis_and_says_that_it_is_not_ready(start, unused_port, service):
    _, url = start(service, redis_url=f"redis://127.0.0.1:{unused_port()}/0")
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    assert "Redis does not answer" in answer.json()["detail"]


@pytest.mark.parametrize("service", SERVICES)
def test_it_does_not_load_what_only_others_need(service):
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, services.{service}.__main__; print(*sorted(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert f"services.{service}.app" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_body_over_the_limit_is_413_over_a_real_connection(start, service):
    """The answer comes before the whole body is sent, and the service goes on."""

    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    _, url = start(service)
    path = "/demand" if service == "matchmaking" else "/invocations"
    headers = {"Content-Type": "application/json"}
    for content in (parts(), b" " * 64 * 65_536):
        answer = httpx.post(f"{url}{path}", content=content, headers=headers)
        assert answer.status_code == 413
    assert httpx.get(f"{url}/healthz").status_code == 200


# The notebook's client: a shell script of curl and jq, which scales a Kubernetes deployment.

CLIENT = """
curl -w "\\n" $MODEL_URL/$MODEL_URL_PARAM > $ANSWER
WANTED=`cat $ANSWER | jq '.Prediction.num_of_gameservers'`
echo ${WANTED%.*}
cat $ANSWER | jq '.Prediction.is_false_positive'
curl -w "\\n" $DEMAND_URL | jq '.Prediction.num_of_gameservers'
"""
"""Its lines that read: replicas are what is before the dot."""


@pytest.fixture
def notebook_client(tmp_path) -> Callable[..., list[str]]:
    """Runs the client's lines; returns what it reads."""
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")

    def run(model_url: str, parameter: str, demand_url: str) -> list[str]:
        variables = {
            "MODEL_URL": model_url,
            "MODEL_URL_PARAM": parameter,
            "DEMAND_URL": demand_url,
            "ANSWER": str(tmp_path / "prediction.json"),
        }
        done = subprocess.run(
            ["sh", "-c", CLIENT],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    return run


def make_known(redis_url: str, decision: Decision, demand: Demand) -> None:
    async def publish() -> None:
        bus = Bus.connect(redis_url)
        await bus.publish(DECISIONS, decision.fleet, decision)
        await bus.record_demands([demand], [None])
        await bus.close()

    asyncio.run(publish())


def test_the_notebooks_client_reads_what_it_needs(start, redis_url, notebook_client):
    """Its address is `.../predict/<region>/`; an older one puts the region in between."""
    now = utc_now()
    decision = a_decision(target=83.2, decided_at=now)
    make_known(redis_url, decision, Demand(fleet="default", demand=79.5, observed_at=now))
    _, model = start("prediction")
    _, matchmaking = start("matchmaking")
    for url, parameter in (
        (f"{model}/predict/default", "/"),
        (f"{model}/predict/default", ""),
        (f"{model}/predict", "default"),
    ):
        assert notebook_client(url, parameter, f"{matchmaking}/demand") == ["84", "0", "79.5"]


def test_the_notebooks_client_sees_a_false_positive(start, redis_url, notebook_client):
    now = utc_now()
    decision = a_decision(target=83.2, decided_at=now)
    make_known(redis_url, decision, Demand(fleet="default", demand=95.5, observed_at=now))
    _, model = start("prediction")
    _, matchmaking = start("matchmaking")
    read = notebook_client(f"{model}/predict/default", "/", f"{matchmaking}/demand")
    assert read == ["96", "1", "95.5"]


@pytest.mark.parametrize("simulator", ["currsine1h", "currsine24h"])
def test_the_notebooks_client_reads_the_simulators(start, notebook_client, simulator):
    """The notebook's own address of them ends in a slash."""
    _, matchmaking = start("matchmaking")
    url = f"{matchmaking}/{simulator}"
    for demand_url in (url, f"{url}/"):
        *_, demand = notebook_client(url, "/", demand_url)
        assert 99 * math.sin(3.1) - 1e-9 <= float(demand) <= 99


def test_the_notebooks_client_reads_null_where_nothing_is_known(start, notebook_client):
    """`kubectl scale --replicas=null` then fails, and the deployment stays as it is."""
    _, model = start("prediction")
    _, matchmaking = start("matchmaking")
    read = notebook_client(f"{model}/predict/default", "/", f"{matchmaking}/demand")
    assert read == ["null", "null", "null"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_slash_at_the_end_of_an_address_changes_nothing(start, service):
    _, url = start(service, api_token="secret")
    reads = {"matchmaking": "/currsine1h", "prediction": "/ping"}
    headers = {"Authorization": "Bearer secret"}
    for path in ("/healthz", "/docs", reads[service]):
        for slashes in ("/", "//"):
            assert httpx.get(f"{url}{path}{slashes}", headers=headers).status_code == 200
    writes = {"matchmaking": "/demand", "prediction": "/invocations"}
    assert httpx.post(f"{url}{writes[service]}/").status_code == 401
    assert httpx.get(f"{url}//").status_code == httpx.get(url).status_code == 401
