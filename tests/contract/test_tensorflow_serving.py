"""What is exported serves by itself: TensorFlow alone answers from it as the services do.

There is no TensorFlow Serving to be had from a package registry, so its rules are written down in
`tests/tensorflow_serving.py`, a process that TensorFlow runs in and nothing of ours.
"""

import json
import math
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shared.core.parameters import FleetParameters
from shared.policies.runtime import (
    PRETRAINED,
    PRETRAINED_STORE,
    first_action,
    load_artefact,
    pretrained_manifest,
)
from shared.policies.store import SAVED_MODEL

SERVING = Path(__file__).parents[1] / "tensorflow_serving.py"
MANIFEST = pretrained_manifest(FleetParameters(observation="calendar"))
FIELDS = MANIFEST.observation_fields


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A learnt policy, in both forms that the command writes."""
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "services.cli", "policies", "export", MANIFEST.version]
    variables = {**os.environ, "AUTOPILOT_POLICY_STORE": str(PRETRAINED_STORE.files)}
    for options in (
        ["--out", str(folder / "folder")],
        ["--sagemaker", "--out", str(folder / "model.tar.gz")],
    ):
        subprocess.run([*command, "--fleet", PRETRAINED, *options], check=True, env=variables)
    with tarfile.open(folder / "model.tar.gz") as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return folder


@pytest.fixture(scope="module")
def policy(exported):
    """As the services run it."""
    return load_artefact(exported / "unpacked")


@pytest.fixture(scope="module")
def predict(exported):
    """Asks the process that serves the SavedModel."""
    base = (exported / "unpacked" / SAVED_MODEL).parent
    process = subprocess.Popen(
        [sys.executable, "-I", str(SERVING), str(base)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=exported,
    )
    assert json.loads(process.stdout.readline()) == {"version": 1}

    def ask(body):
        process.stdin.write(json.dumps(body) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.kill()
    process.communicate()


def rows(count, known=1.0):
    """Observations in servers; of what history may not reach, a part is not known."""
    rng = np.random.default_rng(0)
    values = rng.uniform(10, 100, (count, len(FIELDS)))
    for at, field in enumerate(FIELDS):
        if field.startswith("time_"):
            values[:, at] = rng.uniform(0, 1, count)
        if not re.fullmatch(r"(demand|target)\[-\d+\]", field):
            values[rng.random(count) > known, at] = math.nan
    return values.tolist()


def actions(policy, observations):
    return [[first_action(policy, row)] for row in observations]


def agrees(found, expected):
    return np.array(found) == pytest.approx(np.array(expected), abs=1e-5)


def sagemakers_models(model_dir):
    """Base paths of the models, as SageMaker's TensorFlow container looks for them."""
    found = model_dir.rglob("saved_model.pb")
    return {path.parents[1] for path in found if re.fullmatch(r"\d+", path.parent.name)}


@pytest.mark.parametrize("form", ["folder", "unpacked"])
def test_a_name_a_number_and_a_graph(exported, form):
    (model,) = sagemakers_models(exported / form)
    assert model == exported / form / "tf-model"
    assert [path.name for path in model.iterdir()] == ["00000001"]
    assert (model / "00000001" / "variables" / "variables.index").is_file()


@pytest.mark.parametrize("known", [1.0, 0.5])
def test_rows_are_answered_as_invocations_are(predict, policy, known):
    observations = rows(8, known)
    answer = predict({"instances": observations})
    assert list(answer) == ["predictions"]
    assert np.ptp(answer["predictions"]) > 0.1
    assert agrees(answer["predictions"], actions(policy, observations))


def test_rows_may_name_the_observation_and_the_signature(predict):
    observations = rows(2)
    named = [{"observation": row} for row in observations]
    body = {"signature_name": "serving_default", "instances": named}
    assert predict(body) == predict({"instances": observations})


def test_columns_are_answered_as_columns(predict, policy):
    observations = rows(3)
    expected = actions(policy, observations)
    for inputs in (observations, {"observation": observations}):
        answer = predict({"inputs": inputs})
        assert list(answer) == ["outputs"]
        assert agrees(answer["outputs"], expected)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[50.0] * 9]},
        {"instances": [[50.0] * len(FIELDS), [50.0]]},
        {"instances": [["many"] * len(FIELDS)]},
        {"instances": [{"observations": [50.0] * len(FIELDS)}]},
        {"rows": [[50.0] * len(FIELDS)]},
    ],
)
def test_what_is_no_observation_is_an_error(predict, body):
    assert list(predict(body)) == ["error"]


@pytest.mark.slow
def test_tensorflows_own_tool_shows_and_runs_the_signature(exported, policy):
    """The notebook's: one input `observation`, one output `policy`."""
    graph = exported / "unpacked" / SAVED_MODEL
    observation = rows(1)[0]
    signature = ["--dir", str(graph), "--tag_set", "serve", "--signature_def", "serving_default"]

    def tool(*arguments):
        command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True, cwd=exported
        )
        return " ".join(done.stdout.split())

    shown = tool("show", *signature)
    assert re.findall(r"(inputs|outputs)\['(\w+)'\]", shown) == [
        ("inputs", "observation"),
        ("outputs", "policy"),
    ]
    assert re.findall(r"shape: \((.*?)\)", shown) == [f"-1, {len(FIELDS)}", "-1, 1"]
    assert "Method name is: tensorflow/serving/predict" in shown
    ran = tool("run", *signature, "--input_exprs", f"observation=[{observation}]")
    (answer,) = re.findall(r"Result for output key policy: \[\[(.*?)\]\]", ran)
    assert float(answer) == pytest.approx(first_action(policy, observation), abs=1e-5)
