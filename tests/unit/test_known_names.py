"""Misspelt settings are refused; what Kubernetes injects is not."""

import pytest

from shared.errors import BadSetting
from shared.known_names import check_names
from shared.settings import NAMES, load_settings


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("AUTOPILOT_API_TOKN", "AUTOPILOT_API_TOKEN"),
        ("AUTOPILOT_MIN_SERVER", "AUTOPILOT_MIN_SERVERS"),
        ("autopilot_max_server", "AUTOPILOT_MAX_SERVERS"),
        ("AUTOPILOT_PREDICTION_PORTS", "AUTOPILOT_PREDICTION_PORT"),
        ("AUTOPILOT_REDIS", "AUTOPILOT_REDIS_URL"),
        ("AUTOPILOT_", "AUTOPILOT_"),
        ("AUTOPILOT_PROXY_PORT", "AUTOPILOT_"),
        ("AUTOPILOT_SERVICE_HOSTS", "AUTOPILOT_"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_closest_name(monkeypatch, name, closest):
    monkeypatch.setenv(name, "s3cret")
    with pytest.raises(BadSetting) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{name} is not a setting: the closest is {closest}")
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTOPILOT_SERVICE_HOST", "10.0.0.1"),
        ("AUTOPILOT_PREDICTION_SERVICE_HOST", "10.0.0.1"),
        ("AUTOPILOT_PREDICTION_SERVICE_PORT", "8000"),
        ("AUTOPILOT_PREDICTION_SERVICE_PORT_HTTP", "8000"),
        ("AUTOPILOT_EU_WEST_PORT", "tcp://10.0.0.1:8000"),
        ("AUTOPILOT_DNS_PORT", "udp://10.0.0.1:53"),
        ("AUTOPILOT_GAME_PORT_7777_UDP", "udp://10.0.0.1:7777"),
        ("AUTOPILOT_PREDICTION_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("AUTOPILOT_PREDICTION_PORT_8000_TCP_PROTO", "tcp"),
        ("AUTOPILOT_PREDICTION_PORT_8000_TCP_PORT", "8000"),
        ("AUTOPILOT_PREDICTION_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("AUTOPILOT_MODEL_DIR", "/opt/ml/model"),
    ],
)
def test_what_kubernetes_injects_is_passed_over(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert load_settings().prediction_port == 8000


@pytest.mark.parametrize("service", ["prediction", "matchmaking", "metrics", "redis", "console"])
def test_a_service_of_a_settings_name_does_not_set_it(monkeypatch, service):
    """A Service `autopilot-redis` makes AUTOPILOT_REDIS_PORT an address."""
    monkeypatch.setenv(f"AUTOPILOT_{service.upper()}_PORT", "tcp://10.96.0.17:6379")
    settings = load_settings()
    assert isinstance(getattr(settings, f"{service}_port"), int)
    assert f"{service}_port" not in settings.model_fields_set


def test_all_that_are_misspelt_are_told_in_one_line():
    with pytest.raises(BadSetting, match=r"AUTOPILOT_A is .*; AUTOPILOT_B is "):
        check_names({"AUTOPILOT_B": "", "AUTOPILOT_A": "", "OTHER": ""}, NAMES)
