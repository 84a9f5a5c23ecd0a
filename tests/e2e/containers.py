"""The platform in containers, as its users start and see it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 150.0
POLL_SECONDS = 0.3
SERVICES = (
    "redis",
    "matchmaking",
    "environment",
    "prediction",
    "metrics",
    "trainer",
    "play",
    "aws",
)
PACE = {
    "AUTOPILOT_LEARNING_FREQ": "0.5",
    "AUTOPILOT_TRAIN_BATCH_SIZE": "60",
    "AUTOPILOT_TIME_TOTAL_S": "3",
}
"""Soon a policy, and steps enough to count."""
WITH_PASSWORD = (
    "sh",
    "-c",
    'REDISCLI_AUTH=$(cat /run/autopilot/redis.password) exec "$@"',
    "with-password",
)
"""Before a command in Redis's container."""

T = TypeVar("T")


def compose_command() -> list[str] | None:
    """Compose v2, else docker-compose, else None."""
    if shutil.which("docker") is None:
        return None
    version = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if version.returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def missing() -> str | None:
    """What keeps containers from being run here, or None."""
    if compose_command() is None:
        return "neither docker compose nor docker-compose is installed"
    info = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return None if info.returncode == 0 else f"no Docker engine answers: {info.stderr.strip()}"


def until(find: Callable[[], T | None], what: str, patience_s: float = PATIENCE_SECONDS) -> T:
    """What `find` returns, once it is not None; fails after a while."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found = find()
        if found is not None:
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{what}: not within {patience_s:g} s")


class Platform:
    """One compose project, on ports of its own."""

    def __init__(self, project: str, settings: Mapping[str, str] | None = None) -> None:
        """With the defaults of docker-compose.yml, a fast pace, and these settings."""
        command = compose_command()
        assert command is not None
        self.project = project
        self._command = [*command, "--env-file", "deploy/aws-local.env", "--project-name", project]
        self._ports = {
            name: free_port()
            for name in (
                "AUTOPILOT_PREDICTION_PORT",
                "AUTOPILOT_MATCHMAKING_PORT",
                "AUTOPILOT_METRICS_PORT",
                "AWS_LOCAL_PORT",
                "PROMETHEUS_PORT",
                "GRAFANA_PORT",
            )
        }
        own = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOPILOT_", "AWS_"))}
        ports = {name: str(port) for name, port in self._ports.items()}
        self._environment = own | PACE | ports | dict(settings or {})
        self.http = httpx.Client(timeout=5.0)

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a compose command of the project."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        return done

    def refused(self, service: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """What a container of a service says and how it ends, given bad settings."""
        options = [word for item in settings.items() for word in ("-e", "=".join(item))]
        return self.compose("run", "--rm", "--no-deps", "-T", *options, service, check=False)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """`docker inspect` of a service's containers, running or not."""
        labels = (f"project={self.project}", f"service={service}", "oneoff=False")
        filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
        ids = docker("ps", "--all", "--quiet", *filters).split()
        return list(json.loads(docker("inspect", *ids))) if ids else []

    def container(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the one container of a service."""
        (container,) = self.containers(service)
        return container

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return docker("exec", self.container(service)["Id"], *command)

    def attempt(self, service: str, *command: str) -> str:
        """What a command in a service's container says, whether or not it succeeds."""
        words = ["docker", "exec", self.container(service)["Id"], *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def crash(self, service: str) -> None:
        """Kill a container's processes from within, as a fault or the kernel would.

        After `docker kill` no restart policy counts: Docker takes it for the operator's wish.
        """
        self.attempt(service, "sh", "-c", "kill -KILL -1")

    def address(self, name: str) -> str:
        """Of what listens at the port that a variable sets."""
        return f"http://127.0.0.1:{self._ports[name]}"

    @property
    def aws(self) -> dict[str, Any]:
        """How boto3 finds the project's AWS."""
        return {
            "endpoint_url": self.address("AWS_LOCAL_PORT"),
            "region_name": "us-east-1",
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
        }

    def up(self, url: str) -> bool:
        """Whether an address answers 200."""
        try:
            return self.http.get(url).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def prediction(self) -> dict[str, Any] | None:
        """The answer of `GET /prediction`, or None while there is none."""
        try:
            answer = self.http.get(f"{self.address('AUTOPILOT_PREDICTION_PORT')}/prediction")
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.status_code == httpx.codes.OK else None

    def predicted(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first answer of `GET /prediction` for which `holds`."""

        def find() -> dict[str, Any] | None:
            answer = self.prediction()
            return answer if answer is not None and holds(answer) else None

        return until(find, what)

    def report(self, servers: float, **more: Any) -> httpx.Response:
        """Post a demand, as a matchmaker does; `more` are other fields of it."""
        url = f"{self.address('AUTOPILOT_MATCHMAKING_PORT')}/demand"
        return self.http.post(url, json={"num_of_gameservers": servers, **more})

    def redis(self, *command: str) -> Any:
        """Redis's answer to a command."""
        return json.loads(self.execute("redis", *WITH_PASSWORD, "redis-cli", "--json", *command))

    def redis_settings(self) -> dict[str, str]:
        """How Redis is set up."""
        return _table(self.redis("CONFIG", "GET", "*"))

    def transitions(self) -> list[dict[str, Any]]:
        """Every transition on the stream, oldest first."""
        entries = self.redis("XRANGE", "autopilot:transitions", "-", "+")
        return [json.loads(_table(fields)["message"]) for _, fields in entries]


def _table(answer: Any) -> dict[str, str]:
    """Names and values that Redis answers: a table, or a list by older versions of redis-cli."""
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2], strict=True))


def docker(*arguments: str) -> str:
    """Standard output of a docker command."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout


def lines(text: str) -> Sequence[str]:
    """Of what a process has said, without what compose says about it, such as its exit code."""
    return [
        line
        for line in text.splitlines()
        if line
        and not line.isdigit()
        and not line.lstrip().startswith(("Creating ", "Container ", "Network ", "Volume "))
    ]
