"""Access as processes have it: what they refuse to start with, what opens them, tokens that change.

Each refusal is one line that names the culprit, and exit code 2.
"""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.supervision import service_command
from shared.bus import Bus
from shared.http.bearer import Bearer
from shared.http.tokens import READERS, REPORTERS, Tokens
from tests.contract.conftest import START_SECONDS
from tests.eventually import PATIENCE_SECONDS, eventually
from tests.processes import Process, run

HTTP_SERVICES = ["matchmaking", "prediction", "metrics"]
PASSWORD = "hunter2hunter2"


def told(process: subprocess.CompletedProcess[str]) -> str:
    """The one line of a process that has ended with exit code 2."""
    assert process.returncode == 2, process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    return process.stderr


def events_in(log: str) -> list[dict[str, Any]]:
    """Of a log in JSON, every line of it."""
    return [json.loads(line) for line in log.splitlines()]


def variables(**settings: Any) -> dict[str, str]:
    return os.environ | {f"AUTOPILOT_{k.upper()}": str(v) for k, v in settings.items()}


@pytest.mark.parametrize(
    "words",
    [
        ("services.matchmaking",),
        ("services.prediction",),
        ("services.prediction.serve",),
        ("services.metrics",),
        ("services.environment",),
        ("services.trainer",),
        ("services.cli", "up"),
        ("services.cli", "play", "--demand", "sine1h"),
        ("services.cli", "policies", "list"),
        ("services.cli", "fleets", "list"),
    ],
    ids=" ".join,
)
def test_an_empty_token_and_a_misspelt_setting_are_refused(words):
    """The first by an interpreter of its own: nothing that it imports says anything either."""
    empty = subprocess.run(
        service_command(*words),
        env=variables(api_token=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "AUTOPILOT_API_TOKEN: it is empty" in told(empty)
    line = told(run(*words, env=variables(api_tokn="s3cret")))
    assert "AUTOPILOT_API_TOKN is not a setting: the closest is AUTOPILOT_API_TOKEN" in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api_token": " "}, "AUTOPILOT_API_TOKEN: it is empty"),
        ({"api_token": "two words"}, "AUTOPILOT_API_TOKEN: it has a space"),
        ({"agones_token": ""}, "AUTOPILOT_AGONES_TOKEN: it is empty"),
        ({"tokens": ""}, "AUTOPILOT_TOKENS='': it is empty"),
        ({"tokens": "/nowhere"}, "AUTOPILOT_TOKENS=/nowhere: there is none of the files"),
        ({"open_access": "yes please"}, "AUTOPILOT_OPEN_ACCESS='yes please'"),
        ({"allowed_hosts": "http://x"}, "AUTOPILOT_ALLOWED_HOSTS='http://x'"),
        ({"host": "0.0.0.0"}, "AUTOPILOT_HOST=0.0.0.0 is reached from other machines"),
        ({"host": "::"}, "set AUTOPILOT_API_TOKEN or AUTOPILOT_TOKENS, or AUTOPILOT_OPEN_ACCESS=1"),
        ({"redis_url": f"redis://:{PASSWORD}/x@redis:6379/0"}, "AUTOPILOT_REDIS_URL="),
        ({"gs_inventory_url": f"ftp://a:{PASSWORD}@b"}, "ftp://***@b"),
    ],
)
def test_access_that_is_wrongly_set_is_refused(settings, says):
    line = told(run("services.matchmaking", env=variables(**settings)))
    assert says in line
    assert "two words" not in line
    assert PASSWORD not in line


@pytest.fixture
def model_dir(tmp_path) -> Path:
    """What is served alone: the policy that is shipped with the platform."""
    (found,) = (Path(__file__).parents[2] / "shared/policies/bundled_policies/general").iterdir()
    return found


@pytest.fixture
def start_any(start, launch, unused_port, model_dir) -> Callable[..., tuple[Any, str]]:
    """`start`, and the hosting container's `serve` as well."""

    def start_any(service: str, wait: bool = True, **settings: Any) -> tuple[Any, str]:
        if service != "hosting":
            return start(service, wait=wait, **settings)
        port = unused_port()
        environment = variables(model_dir=model_dir, **settings)
        environment["SAGEMAKER_BIND_TO_PORT"] = str(port)
        url = f"http://127.0.0.1:{port}"
        return launch("services.prediction.serve", environment, f"{url}/healthz", wait), url

    return start_any


@pytest.mark.parametrize("service", [*HTTP_SERVICES, "hosting"])
def test_beyond_this_machine_it_listens_by_token_or_where_open_access_is_said(start_any, service):
    refused, _ = start_any(service, wait=False, host="0.0.0.0")
    _, line = refused.communicate(timeout=START_SECONDS)
    assert (refused.returncode, line.count("\n")) == (2, 1), line
    assert "AUTOPILOT_OPEN_ACCESS=1" in line
    for settings in ({"open_access": 1}, {"api_token": "s3cret"}):
        process, url = start_any(service, host="0.0.0.0", log_format="json", **settings)
        answer = httpx.get(f"{url}/openapi.json")
        assert answer.status_code == (200 if "open_access" in settings else 401)
        process.terminate()
        _, log = process.communicate(timeout=START_SECONDS)
        events = [each["event"] for each in events_in(log)]
        expected = "access_is_open" if "open_access" in settings else "access_by_token"
        assert events.count(expected) == 1
        assert "s3cret" not in log


def test_open_access_does_not_switch_tokens_off(start):
    _, url = start("matchmaking", host="0.0.0.0", open_access=1, api_token="s3cret")
    assert httpx.get(f"{url}/metrics").status_code == 401


def test_open_access_is_told_on_this_machine_too(start):
    process, url = start("matchmaking")
    assert httpx.get(f"{url}/metrics").status_code == 200
    process.terminate()
    _, log = process.communicate(timeout=START_SECONDS)
    assert log.count('"access_is_open"') == 1


def test_names_that_kubernetes_injects_keep_nothing_from_starting(start):
    _, url = start(
        "matchmaking",
        prediction_port="tcp://10.96.0.17:8000",
        prediction_port_8000_tcp_addr="10.96.0.17",
        prediction_service_host="10.96.0.17",
        prediction_service_port_http="8000",
    )
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_web_page_cannot_post_to_this_machine(start):
    _, url = start("matchmaking")
    simple = {"Origin": "https://evil.example", "Content-Type": "text/plain;charset=UTF-8"}
    body = '{"num_of_gameservers": 0}'
    assert httpx.post(f"{url}/demand", content=body, headers=simple).status_code == 415
    rebound = {"Host": "evil.example:8001", "Content-Type": "application/json"}
    assert httpx.post(f"{url}/demand", content=body, headers=rebound).status_code == 421
    assert httpx.get(f"{url}/demand").status_code == 503, "nothing was recorded"


def step_of(redis_url: str) -> int:
    """The newest step of the fleet `default`."""

    async def read() -> int:
        bus = Bus.connect(redis_url)
        record = await bus.fleet_record("default")
        await bus.close()
        return 0 if record is None else record.step

    return asyncio.run(read())


class Lobby:
    """Posts and reads demand by the tokens in a folder, and counts what fails."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._tokens = Tokens(folder=folder)
        self._client = httpx.Client()
        self.answers: list[int] = []

    def once(self) -> None:
        report = {"num_of_gameservers": 50}
        posting, reading = Bearer(self._tokens, REPORTERS), Bearer(self._tokens, READERS)
        posted = self._client.post(f"{self._url}/demand", json=report, auth=posting)
        read = self._client.get(f"{self._url}/demand", auth=reading)
        self.answers += [posted.status_code, read.status_code]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Post and read, until it holds."""

        def after_another() -> bool:
            self.once()
            return holds()

        eventually(after_another, what)

    def posts_of_others(self) -> int:
        """Demands that were taken beside our own."""
        text = self._client.get(f"{self._url}/metrics", auth=Bearer(self._tokens, READERS)).text
        taken = re.search(r'method="POST",route="/demand",status="202"} ([0-9.]+)', text)
        return (0 if taken is None else int(float(taken[1]))) - self.answers.count(202)

    def opens(self, token: str) -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        return self._client.get(f"{self._url}/demand", headers=headers).status_code != 401

    def close(self) -> None:
        self._client.close()


def test_tokens_rotate_under_running_processes_and_no_request_fails(
    start, launch, tmp_path, redis_url
):
    """The service, an environment worker and `autopilot play` share a mount that changes."""
    folder = tmp_path / "tokens"
    folder.mkdir()

    def write(*tokens: str) -> None:
        for role in ("report", "read"):
            (folder / role).write_text("".join(f"{token}-{role}\n" for token in tokens))

    write("old")
    service, url = start("matchmaking", tokens=folder, demand_ttl=PATIENCE_SECONDS)
    assert httpx.get(f"{url}/demand").status_code == 401
    lobby = Lobby(url, folder)
    lobby.once()
    settings = {
        "redis_url": redis_url,
        "tokens": folder,
        "matchmaking_url": url,
        "policy_store": tmp_path / "policies",
        "learning_freq": 0.05,
        "demand_ttl": PATIENCE_SECONDS,
        "log_format": "json",
    }
    environment = variables(**settings)
    worker = launch("services.environment", environment, url, wait=False)
    words = ("play", "--demand", "sine1h", "--speed", "100", "--url", url)
    player = Process("services.cli", *words, env=environment)

    def both_go_on() -> Callable[[], bool]:
        """Whether by now the worker has stepped on, and `play` has posted on."""
        steps, posts = step_of(redis_url), lobby.posts_of_others()
        return lambda: step_of(redis_url) > steps + 3 and lobby.posts_of_others() > posts + 20

    try:
        lobby.until(both_go_on(), "the worker and the player go on")
        write("new", "old")
        lobby.until(lambda: lobby.opens("new-read"), "the new token opens")
        assert lobby.opens("old-read"), "both count meanwhile"
        lobby.until(both_go_on(), "they go on by either")
        write("new")
        lobby.until(lambda: not lobby.opens("old-read"), "the old token opens no more")
        lobby.until(both_go_on(), "they go on by the new one")
        assert set(lobby.answers) == {200, 202}
        assert (service.poll(), worker.poll(), player.poll()) == (None, None, None)
    finally:
        lobby.close()
        player.terminate()
        _, said = player.communicate()
    assert "matchmaking_is_away" not in said
    worker.terminate()
    _, log = worker.communicate(timeout=START_SECONDS)
    assert "demand_missing" not in log
    service.terminate()
    _, served = service.communicate(timeout=START_SECONDS)
    assert served.count('"tokens_read"') == 2
    for token in ("old-report", "old-read", "new-report", "new-read"):
        assert token not in said + log + served


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_failing_service_logs_neither_its_token_nor_a_password(start, unused_port, log_format):
    redis = f"redis://:{PASSWORD}@127.0.0.1:{unused_port()}/0"
    settings = {"redis_url": redis, "api_token": "t0k3n-of-all", "log_format": log_format}
    for service in ("matchmaking", "prediction"):
        process, url = start(service, log_level="debug", **settings)
        answers = [
            httpx.get(f"{url}{path}", headers={"Authorization": "Bearer t0k3n-of-all"})
            for path in ("/readyz", "/demand", "/prediction", "/explain")
        ]
        process.terminate()
        _, log = process.communicate(timeout=START_SECONDS)
        for text in (log, *(answer.text for answer in answers)):
            assert "t0k3n-of-all" not in text
            assert PASSWORD not in text
