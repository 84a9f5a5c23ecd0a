"""What is written beside the code, kept in step with it: settings, images, dashboard."""

import json
import re
from pathlib import Path

import pytest
import yaml

from shared.known_names import PREFIX
from shared.settings import FleetSettings, Settings

ROOT = Path(__file__).parents[2]
ONE_SHOT = {"access"}
"""Ends once it has done its work."""
FIXED_IN_CONTAINERS = {"HOST", "REDIS_PORT", "MATCHMAKING_URL", "HEARTBEAT"}
"""Not the user's to set there; of these only MATCHMAKING_URL differs from the image's."""
PORTS = {"PREDICTION_PORT", "MATCHMAKING_PORT", "METRICS_PORT", "CONSOLE_PORT"}
"""Where this machine listens; in its container a service keeps its own."""


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def settings_by_name():
    fields = Settings.model_fields | FleetSettings.model_fields
    return {name.upper(): field for name, field in fields.items()}


@pytest.fixture(scope="module")
def example():
    return dict(
        re.findall(r"^#([A-Z_]+)=(\S*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )


def test_the_example_explains_every_setting(settings_by_name, example):
    named = {name.removeprefix(PREFIX) for name in example if name.startswith(PREFIX)}
    assert named == set(settings_by_name)


def test_the_example_has_the_defaults(settings_by_name, example):
    for name, field in settings_by_name.items():
        written = example[PREFIX + name]
        if written and field.default_factory is None:
            default = int(field.default) if isinstance(field.default, bool) else field.default
            assert written == f"{default}", name


def test_nothing_in_the_example_is_set():
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_containers_are_handed_every_setting(compose, settings_by_name):
    handed = {
        name.removeprefix(PREFIX) for name in compose["x-settings"] if name.startswith(PREFIX)
    }
    assert handed == set(settings_by_name) - (FIXED_IN_CONTAINERS - {"MATCHMAKING_URL"}) - PORTS


def test_what_compose_asks_for_is_explained(compose, example):
    text = (ROOT / "docker-compose.yml").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    asked |= {name for name, value in compose["x-settings"].items() if value is None}
    assert asked <= set(example)


def test_every_container_is_confined(compose):
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped"), name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_redis_has_a_password_and_a_network_of_its_own(compose):
    redis = compose["services"]["redis"]
    assert "requirepass $$(cat /run/autopilot/redis.password)" in redis["command"][-1]
    assert "REDISCLI_AUTH=" in redis["healthcheck"]["test"][-1]
    assert "ports" not in redis
    assert redis["networks"] == ["redis"]
    assert compose["networks"]["redis"] == {"internal": True}
    there = {
        name for name, each in compose["services"].items() if "redis" in each.get("networks", ())
    }
    having = {
        name
        for name, each in compose["services"].items()
        if "access:/app/.autopilot:ro" in each.get("volumes", ())
    }
    assert there - {"redis"} == having
    assert having == {"matchmaking", "environment", "prediction", "metrics", "trainer"}


def test_prometheus_sends_the_token_that_is_made_for_it(compose):
    (job,) = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text())[
        "scrape_configs"
    ]
    assert job["authorization"] == {"credentials_file": "/run/autopilot/token"}
    assert "scraping:/run/autopilot:ro" in compose["services"]["prometheus"]["volumes"]


def test_the_dashboard_asks_for_metrics_that_there_are():
    text = (ROOT / "deploy/monitoring/dashboard.json").read_text()
    queries = [
        target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]
    ]
    asked = {name for query in queries for name in re.findall(r"autopilot_\w+", query)}
    code = "".join(
        path.read_text()
        for folder in ("services", "shared")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert asked
    for name in asked:
        told = name.removeprefix("autopilot_").removesuffix("_total")
        assert f'"{told}"' in code or f'"autopilot_{told}"' in code, name
