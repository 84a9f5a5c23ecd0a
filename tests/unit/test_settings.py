"""Settings: what the environment and the fleet file say, and what is wrong with them."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.core.guards import NO_GUARDS, Guards
from shared.core.parameters import FleetParameters
from shared.errors import BadSetting, UnknownFleet
from shared.settings import Settings, load_fleets, load_settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AUTOPILOT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def fleet_file(tmp_path, monkeypatch):
    """Write a fleet file and have AUTOPILOT_FLEETS point at it."""
    path = tmp_path / "fleets.toml"
    monkeypatch.setenv("AUTOPILOT_FLEETS", str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_the_notebooks_defaults():
    fleets = load_fleets(load_settings())
    assert fleets.names == ("default",)
    default = fleets["default"]
    assert default.parameters == FleetParameters(
        min_servers=10.0,
        max_servers=100.0,
        action_factor=100.0,
        over_prov_factor=5.0,
        history_len=5,
        reward="asymmetric",
        observation="calendar",
    )
    assert (default.gamma, default.learning_freq) == (0.9, 65)
    assert load_settings().cloudwatch_namespace == "rl-game-server-autopilot"


@pytest.mark.parametrize(
    ("variable", "value", "field", "read"),
    [
        ("MIN_SERVERS", "20", "min_servers", 20),
        ("MAX_SERVERS", "250", "max_servers", 250),
        ("ACTION_FACTOR", "80", "action_factor", 80),
        ("OVER_PROV_FACTOR", "2.5", "over_prov_factor", 2.5),
        ("GAMMA", "0.5", "gamma", 0.5),
        ("LEARNING_FREQ", "0.05", "learning_freq", 0.05),
        ("GS_INVENTORY_URL", "local", "gs_inventory_url", "local"),
        ("HISTORY_LEN", "7", "history_len", 7),
        ("REWARD", "notebook", "reward", "notebook"),
        ("OBSERVATION", "notebook", "observation", "notebook"),
        ("MAX_STEP_UP", "4", "max_step_up", 4),
        ("MAX_STEP_DOWN", "2", "max_step_down", 2),
        ("SCALE_DOWN_DELAY", "5", "scale_down_delay", 5),
        ("FLOOR_AT_ALLOCATED", "1", "floor_at_allocated", True),
        ("SERVERS_PER_TICKET", "0.1", "servers_per_ticket", 0.1),
        ("SHADOW", "1", "shadow", True),
        ("SESSION_SECONDS", "1200", "session_seconds", 1200),
        ("PATIENCE_SECONDS", "300", "patience_seconds", 300),
        ("TIME_TOTAL_S", "9", "time_total_s", 9),
        ("TRAIN_BATCH_SIZE", "64", "train_batch_size", 64),
    ],
)
def test_a_variable_sets_every_fleet(monkeypatch, variable, value, field, read):
    monkeypatch.setenv(f"AUTOPILOT_{variable}", value)
    assert getattr(load_fleets(load_settings())["default"], field) == read


@pytest.mark.parametrize(
    ("variable", "value", "field", "read"),
    [
        ("REDIS_URL", "redis://elsewhere:1/2", "redis_url", "redis://elsewhere:1/2"),
        ("POLICY_STORE", "/policies", "policy_store", "/policies"),
        ("METRICS_PORT", "9000", "metrics_port", 9000),
        ("CLOUDWATCH_NAMESPACE", "game", "cloudwatch_namespace", "game"),
        ("SAVE_MODEL", "0", "save_model", False),
        ("API_TOKEN", "secret", "api_token", SecretStr("secret")),
        ("OPEN_ACCESS", "1", "open_access", True),
        (
            "ALLOWED_HOSTS",
            "Game.example.com, *.lan",
            "allowed_hosts",
            ("game.example.com", "*.lan"),
        ),
        ("CONSOLE_PORT", "9002", "console_port", 9002),
        ("LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_a_variable_sets_the_process(monkeypatch, variable, value, field, read):
    monkeypatch.setenv(f"AUTOPILOT_{variable}", value)
    assert getattr(load_settings(), field) == read


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MIN_SERVERS", "-1", "AUTOPILOT_MIN_SERVERS='-1'"),
        ("MIN_SERVERS", "few", "AUTOPILOT_MIN_SERVERS='few'"),
        ("MIN_SERVERS", "101", "MIN_SERVERS <= MAX_SERVERS"),
        ("MAX_SERVERS", "1000001", "AUTOPILOT_MAX_SERVERS='1000001'"),
        ("ACTION_FACTOR", "0", "AUTOPILOT_ACTION_FACTOR='0'"),
        ("OVER_PROV_FACTOR", "-1", "AUTOPILOT_OVER_PROV_FACTOR='-1'"),
        ("OVER_PROV_FACTOR", "inf", "AUTOPILOT_OVER_PROV_FACTOR='inf'"),
        ("GAMMA", "1", "AUTOPILOT_GAMMA='1'"),
        ("LEARNING_FREQ", "0", "AUTOPILOT_LEARNING_FREQ='0'"),
        ("LEARNING_FREQ", "nan", "AUTOPILOT_LEARNING_FREQ='nan'"),
        ("GS_INVENTORY_URL", "matchmaker", "gs_inventory_url 'matchmaker'"),
        ("HISTORY_LEN", "1", "AUTOPILOT_HISTORY_LEN='1'"),
        ("REWARD", "kind", "AUTOPILOT_REWARD='kind'"),
        ("DEMAND_TTL", "0", "AUTOPILOT_DEMAND_TTL='0'"),
        ("MAX_STEP_UP", "-1", "AUTOPILOT_MAX_STEP_UP='-1'"),
        ("MAX_STEP_DOWN", "2.5", "AUTOPILOT_MAX_STEP_DOWN='2.5'"),
        ("SCALE_DOWN_DELAY", "1001", "AUTOPILOT_SCALE_DOWN_DELAY='1001'"),
        ("FLOOR_AT_ALLOCATED", "perhaps", "AUTOPILOT_FLOOR_AT_ALLOCATED='perhaps'"),
        ("SERVERS_PER_TICKET", "inf", "AUTOPILOT_SERVERS_PER_TICKET='inf'"),
        ("TIME_TOTAL_S", "-5", "AUTOPILOT_TIME_TOTAL_S='-5'"),
        ("PREDICTION_PORT", "70000", "AUTOPILOT_PREDICTION_PORT='70000'"),
        ("METRICS_PORT", "web", "AUTOPILOT_METRICS_PORT='web'"),
        ("SAVE_MODEL", "perhaps", "AUTOPILOT_SAVE_MODEL='perhaps'"),
        ("LOG_FORMAT", "xml", "AUTOPILOT_LOG_FORMAT='xml'"),
    ],
)
def test_a_variable_that_can_not_be_used_is_named(monkeypatch, variable, value, says):
    monkeypatch.setenv(f"AUTOPILOT_{variable}", value)
    with pytest.raises(BadSetting) as refused:
        load_fleets(load_settings())
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_fleets_table_goes_over_the_variables(monkeypatch, fleet_file):
    monkeypatch.setenv("AUTOPILOT_MIN_SERVERS", "3")
    monkeypatch.setenv("AUTOPILOT_MAX_SERVERS", "50")
    fleet_file("[eu-west]\nmax_servers = 200\n\n[us_east]\n")
    fleets = load_fleets(load_settings())
    limits = {name: (f.min_servers, f.max_servers) for name, f in fleets.by_name.items()}
    assert limits == {"eu-west": (3, 200), "us_east": (3, 50)}


def test_guards_are_off_unless_set(fleet_file):
    fleet_file("[eu]\nmax_step_up = 4\nfloor_at_allocated = true\n\n[us]\n")
    fleets = load_fleets(load_settings())
    assert fleets["eu"].guards == Guards(max_step_up=4, floor_at_allocated=True)
    assert fleets["us"].guards == NO_GUARDS


FLOORS = """
[eu]
shadow = true
[[eu.scheduled_floors]]
cron = "0 18 * * FRI"
zone = "Europe/Berlin"
duration = "3:00:00"
servers = 60
[us]
"""


def test_known_events_and_shadow_are_a_fleets_own(fleet_file):
    fleet_file(FLOORS)
    fleets = load_fleets(load_settings())
    (event,) = fleets["eu"].guards.scheduled_floors
    assert (event.cron, event.zone.key, event.duration) == (
        "0 18 * * FRI",
        "Europe/Berlin",
        timedelta(hours=3),
    )
    assert (event.servers, fleets["eu"].shadow) == (60, True)
    assert (fleets["us"].guards.scheduled_floors, fleets["us"].shadow) == ((), False)


def test_known_events_in_a_variable(monkeypatch):
    written = '[{"cron": "0 18 * * *", "zone": "UTC", "duration": 3600, "servers": 60}]'
    monkeypatch.setenv("AUTOPILOT_SCHEDULED_FLOORS", written)
    (event,) = load_fleets(load_settings())["default"].scheduled_floors
    assert (event.duration, event.servers) == (timedelta(hours=1), 60)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('cron = "0 18 * *"', "cron '0 18 * *' must have 5 fields"),
        ('cron = "0 25 * * *"', "cron '0 25 * * *' has a bad hour"),
        ('zone = "Mars/Olympus"', "[0]['zone']='Mars/Olympus': there is no such time zone"),
        ('duration = "3h"', "[0]['duration']='3h': write seconds, or '3:00:00'"),
        ("duration = 0", "duration is 0:00:00"),
        ("servers = 0", "servers is 0"),
        ("servers = 101", "scheduled_floors need 101 servers and max_servers is 100"),
        ("places = 60", "[0]['places']=60: there is no such field"),
    ],
)
def test_a_known_event_that_can_not_be_used(fleet_file, line, says):
    name = line.partition(" = ")[0]
    kept = [other for other in FLOORS.splitlines() if not other.startswith(name)]
    at = kept.index("[us]")
    fleet_file("\n".join([*kept[:at], line, *kept[at:]]))
    with pytest.raises(BadSetting) as refused:
        load_fleets(load_settings())
    assert says in str(refused.value)
    assert "fleet 'eu'" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("every friday", "AUTOPILOT_SCHEDULED_FLOORS is not JSON: write [{"),
        ("", "AUTOPILOT_SCHEDULED_FLOORS is not JSON"),
        ("5", "AUTOPILOT_SCHEDULED_FLOORS=5: write an array"),
        ('[{"cron": "0 18 * * *"}]', "AUTOPILOT_SCHEDULED_FLOORS[0]['zone']"),
    ],
)
def test_a_variable_of_known_events_that_can_not_be_used(monkeypatch, written, says):
    monkeypatch.setenv("AUTOPILOT_SCHEDULED_FLOORS", written)
    with pytest.raises(BadSetting) as refused:
        load_fleets(load_settings())
    assert says in str(refused.value)


def test_a_fleet_that_is_not_there(fleet_file):
    fleet_file("[eu]\n[us]\n")
    with pytest.raises(UnknownFleet, match="no fleet 'asia': use one of eu, us"):
        load_fleets(load_settings())["asia"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[eu]\ncolour = 1\n", ["fleet 'eu'", "AUTOPILOT_COLOUR", "Extra inputs"]),
        ("[eu]\nmax_servers = 'many'\n", ["fleet 'eu'", "AUTOPILOT_MAX_SERVERS='many'"]),
        ("[eu]\nmin_servers = 9\nmax_servers = 8\n", ["fleet 'eu'", "MIN_SERVERS <= MAX_SERVERS"]),
        ("[us]\n[eu]\nreward = 'kind'\n", ["fleet 'eu'", "AUTOPILOT_REWARD='kind'"]),
        ("['eu west']\n", ["'eu west' can't be a fleet's name"]),
        ("['../eu']\n", ["'../eu' can't be a fleet's name"]),
        ("max_servers = 8\n", ["AUTOPILOT_FLEETS=", "one table a fleet"]),
        ("", ["AUTOPILOT_FLEETS=", "one table a fleet"]),
        ("[eu\n", ["AUTOPILOT_FLEETS=", "is not TOML"]),
        ("[eu]\n[eu]\n", ["AUTOPILOT_FLEETS=", "is not TOML"]),
        (f"[eu]\nmax_servers = 1{'0' * 5000}\n", ["AUTOPILOT_FLEETS=", "is not TOML", "digits"]),
        (f"[eu]\na = {'[' * 9000}", ["AUTOPILOT_FLEETS=", "is not TOML"]),
    ],
)
def test_a_fleet_file_that_can_not_be_used(fleet_file, text, says):
    fleet_file(text)
    with pytest.raises(BadSetting) as refused:
        load_fleets(load_settings())
    for part in says:
        assert part in str(refused.value)


def test_a_fleet_file_that_is_not_text(fleet_file):
    fleet_file("").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadSetting, match="is not TOML"):
        load_fleets(load_settings())


def test_a_fleet_file_that_is_not_there(tmp_path):
    with pytest.raises(BadSetting, match=r"AUTOPILOT_FLEETS=.*No such file"):
        load_fleets(Settings(fleets=tmp_path / "fleets.toml"))


def test_a_fleet_file_that_is_a_folder(tmp_path):
    with pytest.raises(BadSetting, match=r"AUTOPILOT_FLEETS=.*directory"):
        load_fleets(Settings(fleets=tmp_path))


@pytest.mark.parametrize(
    ("table", "demand_ttl", "decision_ttl"),
    [
        ("learning_freq = 5", 15, 15),
        ("learning_freq = 5\ndemand_ttl = 20", 20, 15),
        ("learning_freq = 5\ndecision_ttl = 7", 15, 7),
    ],
)
def test_what_is_stale_is_three_steps_old_unless_set(fleet_file, table, demand_ttl, decision_ttl):
    fleet_file(f"[eu]\n{table}\n")
    eu = load_fleets(load_settings())["eu"]
    assert (eu.demand_ttl_s, eu.decision_ttl_s) == (demand_ttl, decision_ttl)


def test_a_certificate_without_its_key_is_no_setting(monkeypatch):
    monkeypatch.setenv("AUTOPILOT_TLS_CERT_FILE", "/tls/tls.crt")
    with pytest.raises(BadSetting, match="AUTOPILOT_TLS_KEY_FILE go together"):
        load_settings()
    monkeypatch.setenv("AUTOPILOT_TLS_KEY_FILE", "/tls/tls.key")
    assert load_settings().tls_key_file == Path("/tls/tls.key")
