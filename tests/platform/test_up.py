"""`autopilot up` for real: every process, learning included, from start to Ctrl-C."""

import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import redis
from redis.exceptions import AuthenticationError

from services.cli.supervision import service_command
from tests.conftest import free_port

PATIENCE_SECONDS = 150.0


@pytest.fixture
def platform_environment() -> dict[str, str]:
    purposes = ("PREDICTION", "MATCHMAKING", "METRICS", "REDIS")
    return {
        **os.environ,
        **{f"AUTOPILOT_{purpose}_PORT": str(free_port()) for purpose in purposes},
        "AUTOPILOT_TIME_TOTAL_S": "3",
        "AUTOPILOT_TRAIN_BATCH_SIZE": "100",
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_up_answers_learns_survives_a_kill_and_leaves_nothing_running(
    tmp_path: Path, platform_environment: dict[str, str]
) -> None:
    log = tmp_path / "up.log"
    with log.open("w") as output:
        platform = subprocess.Popen(
            service_command("services.cli", "up", "--speed", "20"),
            cwd=tmp_path,
            env=platform_environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{platform_environment['AUTOPILOT_PREDICTION_PORT']}/prediction"
        first = _until(url, lambda _: True)
        assert not first["policy_version"].startswith("20"), "the fleet has none of its own yet"
        learnt = _until(url, lambda answer: answer["policy_version"].startswith("20"))
        assert learnt["fallback"] is None
        metrics_port = platform_environment["AUTOPILOT_METRICS_PORT"]
        metrics = _jobs_ended(f"http://127.0.0.1:{metrics_port}/metrics", 2)
        assert 'autopilot_recommended_servers{fleet="default"}' in metrics

        later = _until(url, lambda answer: answer["fallback"] is None)
        _process_of(platform, "services.environment").send_signal(signal.SIGKILL)
        _until(url, lambda answer: answer["decided_at"] > later["decided_at"])

        family = psutil.Process(platform.pid).children(recursive=True)
        platform.send_signal(signal.SIGINT)
        assert platform.wait(60) == 0
        gone, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        assert gone
    finally:
        if platform.poll() is None:
            platform.terminate()
            platform.wait(60)
        print(log.read_text())
    text = log.read_text()
    assert "Traceback" not in text
    assert " error " not in text
    assert "policy_published" in text


SECRETIVE = ("redis.url", "redis/redis.conf")
"""In `.autopilot`: all that has the password."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nobody_else_gets_into_the_embedded_redis(
    tmp_path: Path, platform_environment: dict[str, str]
) -> None:
    """Its password is in two files of the owner's, and commands in the folder need no variable."""
    log = tmp_path / "up.log"
    with log.open("w") as output:
        platform = subprocess.Popen(
            service_command("services.cli", "up"),
            cwd=tmp_path,
            env=platform_environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _until(
            f"http://127.0.0.1:{platform_environment['AUTOPILOT_PREDICTION_PORT']}/prediction",
            lambda _: True,
        )
        state = tmp_path / ".autopilot"
        url = (state / "redis.url").read_text().strip()
        password = urlsplit(url).password
        assert password is not None
        assert url.endswith(f"@127.0.0.1:{platform_environment['AUTOPILOT_REDIS_PORT']}/0")
        without = redis.Redis.from_url(url.replace(f":{password}@", ""), protocol=2)
        with without, pytest.raises(AuthenticationError, match="Authentication required"):
            without.ping()

        for process in psutil.Process(platform.pid).children(recursive=True):
            assert password not in " ".join(process.cmdline())
            assert password not in str(process.environ())
        modes = {path: stat.S_IMODE((state / path).stat().st_mode) for path in (".", *SECRETIVE)}
        assert modes == {".": 0o700, "redis.url": 0o600, "redis/redis.conf": 0o600}
        assert stat.S_IMODE((state / "redis").stat().st_mode) == 0o700
        having = {
            str(path.relative_to(state))
            for path in state.rglob("*")
            if path.is_file() and password.encode() in path.read_bytes()
        }
        assert having == set(SECRETIVE)

        own = {name: value for name, value in os.environ.items() if "AUTOPILOT" not in name}
        for words, says in ((("fleets", "list"), "live"), (("policies", "list"), "training of")):
            command = service_command("services.cli", *words)
            ended = subprocess.run(
                command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False
            )
            assert ended.returncode == 0, ended.stderr
            assert says in ended.stdout
            assert "unknown" not in ended.stdout
    finally:
        platform.send_signal(signal.SIGINT)
        platform.wait(60)
        print(log.read_text())
    assert password not in log.read_text()
    assert (state / "redis.url").read_text().strip() == url, "for the next start"


def _until(url: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen: Any = None
    while time.monotonic() < deadline:
        try:
            response = httpx.get(url)
        except httpx.TransportError as error:
            seen = error
        else:
            seen = response.text
            if response.is_success and holds(response.json()):
                return dict(response.json())
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_SECONDS} s; the last answer is {seen}")


def _jobs_ended(url: str, number: int) -> str:
    """The metrics, once so many training jobs have ended well: the gate decides who serves."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        metrics = httpx.get(url).text
        ended = re.findall(
            r'autopilot_trainings_total{.*outcome="(?:published|kept)".*} ([0-9.]+)', metrics
        )
        if sum(map(float, ended)) >= number:
            return metrics
        time.sleep(0.5)
    raise AssertionError(f"no {number} jobs within {PATIENCE_SECONDS} s:\n{metrics}")


def _process_of(platform: subprocess.Popen[Any], module: str) -> psutil.Process:
    family = psutil.Process(platform.pid).children(recursive=True)
    return next(process for process in family if module in process.cmdline())
