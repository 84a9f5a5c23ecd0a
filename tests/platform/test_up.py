"""`autopilot up` for real: every process, from start to Ctrl-C; it learns in the slow test."""

import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tests.eventually import eventually
from tests.processes import run

PATIENCE_SECONDS = 150.0
"""For learning on a busy machine."""
SECRETIVE = ("redis.url", "redis/redis.conf")
"""In `.autopilot`: all that has the password."""


class Up:
    """A running `autopilot up` and its folder."""

    def __init__(self, folder: Path, batch: int) -> None:
        purposes = ("PREDICTION", "MATCHMAKING", "METRICS", "REDIS")
        self.ports = {purpose: free_port() for purpose in purposes}
        self.folder = folder
        self._log = folder / "up.log"
        variables = {f"AUTOPILOT_{purpose}_PORT": str(port) for purpose, port in self.ports.items()}
        variables |= {
            "AUTOPILOT_TIME_TOTAL_S": "3",
            "AUTOPILOT_TRAIN_BATCH_SIZE": str(batch),
            "COLUMNS": "200",
        }
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                service_command("services.cli", "up", "--speed", "20"),
                cwd=folder,
                env=os.environ | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def predicted(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first answer of `GET /prediction` for which it holds."""
        url = f"http://127.0.0.1:{self.ports['PREDICTION']}/prediction"
        answer = eventually(
            lambda: httpx.get(url),
            what,
            PATIENCE_SECONDS,
            holds=lambda answer: answer.is_success and holds(answer.json()),
            not_yet=(httpx.TransportError,),
        )
        return dict(answer.json())

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports['METRICS']}/metrics").text

    def interrupt(self) -> None:
        """Ctrl-C: it ends well and leaves nothing running. How long that takes is printed."""
        family = self.family
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0
        print(f"\nfrom Ctrl-C to the end: {time.monotonic() - started:.1f} s")
        gone, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
        assert gone


@contextmanager
def running(folder: Path, batch: int) -> Iterator[Up]:
    """`autopilot up` that learns after so many steps; what is left of it ends with the block."""
    up = Up(folder, batch)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
            up.process.wait(60)
        print(up.log)
    assert "Traceback" not in up.log
    assert " error " not in up.log


def check_nobody_else_gets_in(up: Up) -> str:
    """The password of its Redis is in two files of the owner's, and nowhere else."""
    state = up.folder / ".autopilot"
    url = (state / "redis.url").read_text().strip()
    password = urlsplit(url).password
    assert password is not None
    assert url.endswith(f"@127.0.0.1:{up.ports['REDIS']}/0")
    without = redis.Redis.from_url(url.replace(f":{password}@", ""), protocol=2)
    with without, pytest.raises(AuthenticationError, match="Authentication required"):
        without.ping()

    for process in up.family:
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
    return url


def check_commands_need_no_variable(folder: Path) -> None:
    """In the folder that `up` was started in they find its Redis."""
    own = {name: value for name, value in os.environ.items() if "AUTOPILOT" not in name}
    for words, says in ((("fleets", "list"), "live"), (("policies", "list"), "training of")):
        ended = run("services.cli", *words, env=own, cwd=folder)
        assert ended.returncode == 0, ended.stderr
        assert says in ended.stdout
        assert "unknown" not in ended.stdout


@pytest.mark.timeout(300)
def test_up_answers_survives_a_kill_keeps_its_password_and_leaves_nothing_running(tmp_path):
    with running(tmp_path, batch=100_000) as up:
        first = up.predicted("a first answer", lambda _: True)
        assert not first["policy_version"].startswith("20"), "the fleet has none of its own yet"
        url = check_nobody_else_gets_in(up)
        check_commands_need_no_variable(tmp_path)
        environment = next(one for one in up.family if "services.environment" in one.cmdline())
        environment.kill()
        later = up.predicted("an answer", lambda answer: answer["fallback"] is None)
        up.predicted("a later one", lambda answer: answer["decided_at"] > later["decided_at"])
        up.interrupt()
    assert urlsplit(url).password not in up.log
    assert (tmp_path / ".autopilot/redis.url").read_text().strip() == url, "for the next start"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_up_learns(tmp_path):
    with running(tmp_path, batch=100) as up:
        learnt = up.predicted("a champion", lambda it: it["policy_version"].startswith("20"))
        assert learnt["fallback"] is None
        ended = re.compile(r'autopilot_trainings_total{.*outcome="(?:published|kept)".*} ([0-9.]+)')
        metrics = eventually(
            up.metrics,
            "two jobs have ended well: the gate decides who serves",
            PATIENCE_SECONDS,
            holds=lambda text: sum(map(float, ended.findall(text))) >= 2,
        )
        assert 'autopilot_recommended_servers{fleet="default"}' in metrics
        up.interrupt()
    assert "policy_published" in up.log
