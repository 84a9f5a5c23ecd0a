"""A service as a process; a command in this one."""

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli import __main__ as cli
from services.cli import learning_commands
from tests.eventually import eventually
from tests.processes import Process

START_SECONDS = 20.0
Start = Callable[..., tuple[Process, str]]


@pytest.fixture
def launch() -> Iterator[Callable[..., Process]]:
    """Starts a module, waits until an address of it answers, and ends it after the test."""
    started = []

    def launch(
        module: str,
        environment: dict[str, str],
        answers: str,
        wait: bool = True,
        trusting: ssl.SSLContext | None = None,
    ) -> Process:
        process = Process(module, env=environment)
        started.append(process)

        def answering() -> httpx.Response:
            assert process.poll() is None, process.communicate()[1]
            return httpx.get(answers, verify=trusting or False)

        if wait:
            eventually(
                answering,
                f"{module} answers",
                START_SECONDS,
                holds=lambda _: True,
                not_yet=(httpx.TransportError,),
            )
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def start(redis_url, tmp_path, unused_port, launch) -> Start:
    """Starts a service, waits until it answers, and ends it after the test."""

    def start(
        service: str, wait: bool = True, trusting: ssl.SSLContext | None = None, **settings: Any
    ) -> tuple[Any, str]:
        port = settings.pop("port", None) or unused_port()
        variables = {
            "redis_url": redis_url,
            "policy_store": tmp_path,
            f"{service}_port": port,
            "log_format": "json",
            **settings,
        }
        environment = os.environ | {f"AUTOPILOT_{k.upper()}": str(v) for k, v in variables.items()}
        url = f"{'http' if trusting is None else 'https'}://127.0.0.1:{port}"
        process = launch(f"services.{service}", environment, f"{url}/healthz", wait, trusting)
        return process, url

    return start


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `autopilot` in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for module in (cli, learning_commands):
        monkeypatch.setattr(module, "configure_logs", lambda *_: None)

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autopilot", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.run_command()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run
