"""The image as SageMaker runs it: the command `serve`, a model in /opt/ml/model, nothing else."""

import json
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from services.cli.export import export_policy
from shared.core.parameters import FleetParameters
from shared.policies.runtime import PRETRAINED, PRETRAINED_STORE, pretrained_manifest
from shared.policies.store import LITERT_MODEL
from shared.settings import Settings
from tests.conftest import free_port
from tests.e2e.containers import docker, lines, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]

SERVICE = "gameserver-autopilot-service"
ROW = [50.0] * 10
Run = Callable[..., str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The general policy, exported, unpacked as SageMaker does: `ml/model`."""
    manifest = pretrained_manifest(FleetParameters(observation="calendar"))
    assert manifest is not None
    archive, folder = tmp_path / "model.tar.gz", tmp_path / "ml" / "model"
    settings = Settings(policy_store=str(PRETRAINED_STORE.files))
    console = Console(quiet=True)
    export_policy(settings, PRETRAINED, manifest.version, archive, console, sagemaker=True)
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts a container; removes it after the test."""
    started = []

    def run(model: Path, *options: str) -> str:
        name = f"autopilot-e2e-serve-{uuid.uuid4().hex[:8]}"
        started.append(name)
        docker(
            "create", "--name", name, "--env", "AUTOPILOT_OPEN_ACCESS=1", *options, SERVICE, "serve"
        )
        docker("cp", str(model.parent), f"{name}:/opt/ml")
        docker("start", name)
        return name

    yield run
    for name in started:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def pinged(url: str) -> bool | None:
    try:
        return httpx.get(f"{url}/ping").status_code == httpx.codes.OK or None
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("inside", [8080, 9123])
def test_it_pings_answers_and_stops(built, run, model, inside):
    """On the port that SageMaker has, or another that it chooses."""
    chosen = [] if inside == 8080 else ["--env", f"SAGEMAKER_BIND_TO_PORT={inside}"]
    port = free_port()
    name = run(model, "--publish", f"127.0.0.1:{port}:{inside}", *chosen)
    url = f"http://127.0.0.1:{port}"
    until(lambda: pinged(url), "a ping")
    answer = httpx.post(
        f"{url}/invocations", content=json.dumps(ROW), headers={"Content-Type": "application/json"}
    ).json()
    assert 0.5 <= answer["predictions"][0][0] <= 0.65
    assert answer["policy_version"].startswith("general-5-")
    assert httpx.post(f"{url}/invocations", json=ROW[1:]).status_code == 422
    docker("stop", "--time", "25", name)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"


def test_a_damaged_model_is_one_line_and_exit_code_2(built, run, model):
    (model / LITERT_MODEL).write_bytes(b"TFL3")
    name = run(model)
    assert docker("wait", name).strip() == "2"
    done = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True)
    (line,) = lines(done.stdout + done.stderr)
    assert "AUTOPILOT_MODEL_DIR=/opt/ml/model" in line
    assert "policy.tflite does not match its sha256" in line


def test_the_image_says_that_sagemaker_may_choose_the_port(built):
    labels = json.loads(docker("image", "inspect", SERVICE))[0]["Config"]["Labels"]
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
