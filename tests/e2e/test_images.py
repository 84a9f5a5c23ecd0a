"""What is in the images, and what a container says of settings that can't be used."""

import json

import pytest

from tests.e2e.containers import Platform, docker, lines

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]

BASE = "python:3.11-slim-bookworm"
SERVICE = "gameserver-autopilot-service"
TRAINER = "gameserver-autopilot-trainer"
ADDED_BYTES = 300e6
FIND = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n)))"


def size_of(image: str) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def found_in(image: str, *modules: str) -> list[str]:
    command = ("run", "--rm", "--network", "none", image, "python", "-c", FIND, *modules)
    return docker(*command).split()


def test_the_service_image_is_small(built):
    added = size_of(SERVICE) - size_of(BASE)
    print(f"\nthe service image adds {added / 1e6:.0f} MB to its base")
    assert added < ADDED_BYTES


def test_only_the_trainer_has_what_learns(built):
    assert found_in(SERVICE, "ray", "torch", "tensorflow", "fastapi") == ["fastapi"]
    assert found_in(TRAINER, "ray", "torch", "tensorflow") == ["ray", "torch", "tensorflow"]


def test_torch_is_the_build_for_cpus(built):
    command = "import importlib.metadata as m; print(m.version('torch'))"
    assert docker("run", "--rm", TRAINER, "python", "-c", command).strip().endswith("+cpu")


def test_the_trainer_image_is_a_node_of_ray(built):
    """As KubeRay starts one: in a login shell, confined as the manifests confine it."""
    start = "ray start --head --num-cpus=0 --include-dashboard=false --object-store-memory=80000000"
    confined = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--shm-size", "128m")
    said = docker(
        "run",
        "--rm",
        *confined,
        TRAINER,
        "/bin/bash",
        "-lc",
        f"{start} && ray health-check && ray stop",
    )
    assert "Ray runtime started" in said


@pytest.mark.parametrize("image", [SERVICE, TRAINER])
def test_an_image_knows_its_user_and_how_to_tell_its_health(built, image):
    config = json.loads(docker("image", "inspect", image))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert "shared/probe.py" in " ".join(config["Healthcheck"]["Test"])
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert docker(
        "run", "--rm", image, "sh", "-c", "command -v gcc pip3.11 uv || true"
    ).split() in (
        [],
        ["/usr/local/bin/pip3.11"],  # of the base image
    )


@pytest.mark.parametrize(
    ("service", "setting", "says"),
    [
        ("environment", {"AUTOPILOT_FLEETS": "nowhere.toml"}, "AUTOPILOT_FLEETS=nowhere.toml"),
        ("environment", {"AUTOPILOT_GS_INVENTORY_URL": "ftp://inventory"}, "ftp://inventory"),
        (
            "matchmaking",
            {"AUTOPILOT_REDIS_URL": "rdis://redis"},
            "AUTOPILOT_REDIS_URL=rdis://redis",
        ),
        ("prediction", {"AUTOPILOT_MIN_SERVERS": "200"}, "MIN_SERVERS <= MAX_SERVERS"),
        ("metrics", {"AUTOPILOT_MAX_SERVERS": "many"}, "AUTOPILOT_MAX_SERVERS='many'"),
        ("trainer", {"AUTOPILOT_TIME_TOTAL_S": "0"}, "AUTOPILOT_TIME_TOTAL_S='0'"),
        (
            "trainer",
            {"AUTOPILOT_POLICY_STORE": "ftp://store"},
            "AUTOPILOT_POLICY_STORE=ftp://store",
        ),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(built: Platform, service, setting, says):
    done = built.refused(service, setting)
    assert done.returncode == 2
    (line,) = lines(done.stdout + done.stderr)
    assert says in line
