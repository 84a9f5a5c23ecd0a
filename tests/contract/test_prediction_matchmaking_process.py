"""Both HTTP services as processes: start, stop, wrong settings, what they load."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

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
    for content in (parts(), b" " * 64 * 65_536):
        answer = httpx.post(f"{url}{path}", content=content)
        assert answer.status_code == 413
    assert httpx.get(f"{url}/healthz").status_code == 200
