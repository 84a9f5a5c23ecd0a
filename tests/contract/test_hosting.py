"""`serve`, as a process: one policy artefact over HTTP as SageMaker asks, without a Redis."""

import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from services.cli.export import export_policy
from services.prediction.app import create_app
from services.prediction.serve import load
from shared.bus import Bus
from shared.errors import BadSetting
from shared.messages import PolicyManifest, utc_now
from shared.policies.runtime import load_artefact
from shared.policies.store import CHECKPOINT, LITERT_MODEL, MANIFEST, SAVED_MODEL, PolicyStore
from shared.settings import Fleets, FleetSettings, HostingSettings, Settings
from tests.conftest import MEAN_MODEL
from tests.contract.conftest import START_SECONDS

ROW = [50.5] * 10
LIMITS = FleetSettings(min_servers=20, max_servers=60, action_factor=120, observation="notebook")
Serve = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def store(tmp_path) -> PolicyStore:
    """Has the champion `v1` of fleet `eu`, with a SavedModel and a checkpoint that are none."""
    store = PolicyStore.at(tmp_path / "store")
    now = utc_now()
    draft = PolicyManifest.draft(LIMITS.parameters, version="v1", fleet="eu", created_at=now)
    with store.writing("eu", "v1") as folder:
        shutil.copy(MEAN_MODEL, folder / LITERT_MODEL)
        for name in (f"{SAVED_MODEL}/saved_model.pb", f"{CHECKPOINT}/weights"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(name)
        store.publish(draft, folder)
    store.set_champion("eu", "v1", now)
    return store


@pytest.fixture
def archive(store, tmp_path) -> Path:
    """What `autopilot policies export --sagemaker` writes."""
    archive = tmp_path / "model.tar.gz"
    settings = Settings(policy_store=str(store.files))
    export_policy(settings, "eu", "v1", archive, Console(quiet=True), sagemaker=True)
    return archive


@pytest.fixture
def model_dir(archive, tmp_path) -> Path:
    """As SageMaker unpacks it."""
    folder = tmp_path / "model"
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


@pytest.fixture
def serve(unused_port, launch) -> Serve:
    """Starts `serve` with no setting but its own, and waits until it answers; ends it after."""

    def serve(model_dir: Path, wait: bool = True, **settings: Any) -> tuple[Any, str]:
        port = unused_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AUTOPILOT_")}
        own = {"AUTOPILOT_MODEL_DIR": model_dir, "SAGEMAKER_BIND_TO_PORT": port, **settings}
        environment = inherited | {name: str(value) for name, value in own.items()}
        url = f"http://127.0.0.1:{port}"
        return launch("services.prediction.serve", environment, f"{url}/ping", wait), url

    return serve


def test_the_archive_is_the_artefact_without_its_checkpoint(archive, model_dir):
    with tarfile.open(archive) as opened:
        assert sorted(opened.getnames()) == [
            MANIFEST,
            LITERT_MODEL,
            f"{SAVED_MODEL}/saved_model.pb",
        ]
    listed = json.loads((model_dir / MANIFEST).read_text())["sha256"]
    assert sorted(listed) == [LITERT_MODEL, f"{SAVED_MODEL}/saved_model.pb"]


def test_it_answers_as_sagemaker_asks(serve, model_dir):
    _, url = serve(model_dir)
    assert httpx.get(f"{url}/ping").status_code == 200
    answer = httpx.post(
        f"{url}/invocations", content=json.dumps(ROW), headers={"Content-Type": "application/json"}
    )
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "predictions": [[pytest.approx(0.505)]],
        "num_of_gameservers": [60],
        "policy_version": "v1",
    }


async def test_it_answers_word_for_word_as_the_prediction_service_does(
    serve, model_dir, store, redis_url, client_of
):
    _, url = serve(model_dir)
    service = create_app(
        bus=Bus.connect(redis_url), fleets=Fleets({"eu": LIMITS}), store=store, clock=utc_now
    )
    statuses = []
    async with client_of(service) as client, httpx.AsyncClient(base_url=url) as host:
        for body in (
            ROW,
            {"instances": [ROW, [0] * 10, [40] * 10]},
            {"inputs": [ROW]},
            {"observation": ROW},
            {"observation": ROW[1:]},
            {"instances": "many"},
            [*ROW[1:], "5"],
        ):
            hosted = await host.post("/invocations", json=body)
            answer = await client.post("/invocations?fleet=eu", json=body)
            assert (hosted.status_code, hosted.json()) == (answer.status_code, answer.json())
            statuses.append(hosted.status_code)
    assert statuses == [200] * 4 + [422] * 3


def test_a_body_is_json_whatever_a_client_says_that_does_not_know(serve, model_dir):
    _, url = serve(model_dir)
    content = json.dumps(ROW)
    assert httpx.post(f"{url}/invocations", content=content).status_code == 200
    for said in (
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ):
        headers = {"Content-Type": said}
        answer = httpx.post(f"{url}/invocations", content=content, headers=headers)
        assert answer.status_code == 200, said
    for said in ("text/csv", "application/x-npy", "application/jsonlines"):
        headers = {"Content-Type": said}
        answer = httpx.post(f"{url}/invocations", content=content, headers=headers)
        assert answer.status_code == 415
        assert answer.json()["detail"] == f"the body is said to be {said!r}: send application/json"


def test_the_port_is_8080_unless_sagemaker_chooses():
    assert HostingSettings().port == 8080
    assert HostingSettings().model_dir == Path("/opt/ml/model")


def spoil(model_dir: Path, name: str, content: bytes) -> None:
    (model_dir / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (shutil.rmtree, "it has no policy.json"),
        (lambda folder: (folder / MANIFEST).unlink(), "it has no policy.json"),
        (lambda folder: spoil(folder, MANIFEST, b"{}"), "is not a policy manifest"),
        (lambda folder: (folder / LITERT_MODEL).unlink(), f"can't read {LITERT_MODEL}"),
        (lambda folder: spoil(folder, LITERT_MODEL, b""), "does not match its sha256"),
    ],
)
def test_a_model_that_cannot_serve_is_refused(model_dir, spoilt, says):
    spoilt(model_dir)
    with pytest.raises(BadSetting) as refused:
        load(model_dir)
    assert str(refused.value).startswith(f"AUTOPILOT_MODEL_DIR={model_dir}: ")
    assert says in str(refused.value)
    assert "autopilot policies export --sagemaker" in str(refused.value)


def test_a_refused_model_is_one_line_and_exit_2(serve, model_dir):
    spoil(model_dir, LITERT_MODEL, b"TFL3")
    process, url = serve(model_dir, wait=False)
    _, log = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 2
    assert log.count("\n") == 1
    assert f"AUTOPILOT_MODEL_DIR={model_dir}: policy v1: {LITERT_MODEL} does not match" in log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/ping")


def test_a_port_that_is_none_is_one_line_and_exit_2(serve, model_dir):
    process, _ = serve(model_dir, wait=False, SAGEMAKER_BIND_TO_PORT="many")
    _, log = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 2
    assert log.count("\n") == 1
    assert "SAGEMAKER_BIND_TO_PORT='many'" in log


def test_sigterm_ends_it_well(serve, model_dir):
    process, url = serve(model_dir)
    httpx.get(f"{url}/ping")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "policy_loaded" in log


def test_a_token_is_wanted_where_one_is_set(serve, model_dir):
    _, url = serve(model_dir, AUTOPILOT_API_TOKEN="secret")
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/ping").status_code == 401
    assert httpx.post(f"{url}/invocations", json=ROW).status_code == 401
    headers = {"Authorization": "Bearer secret"}
    assert httpx.post(f"{url}/invocations", json=ROW, headers=headers).status_code == 200


def test_a_folder_that_was_exported_serves_too(store, tmp_path, serve):
    settings = Settings(policy_store=str(store.files))
    out = tmp_path / "folder"
    export_policy(settings, "eu", "v1", out, Console(quiet=True), sagemaker=False)
    assert load_artefact(out).version == "v1"
    _, url = serve(out)
    assert httpx.post(f"{url}/invocations", json=ROW).json()["policy_version"] == "v1"
