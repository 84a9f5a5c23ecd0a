"""Numbers and texts that come in: the largest is taken, and what is more is refused."""

import json

import pytest
from pydantic import ValidationError

from services.cli.demand import Source, players_per_server
from services.cli.traces import MAX_DEMAND, read_trace
from shared.errors import QUOTED, BadInput, BadSetting, UnknownFleet, quoted
from shared.messages import DemandReport
from shared.settings import FleetSettings, Settings, load_fleets, load_settings

HUGE = 10**400
"""An integer that JSON can hold and no float."""

REPORTED = [
    ("num_of_gameservers", 1_000_000, 1_000_000.001),
    ("ccu", 1_000_000_000, 1_000_000_001),
    ("players_per_server", 1_000_000, 1_000_000.5),
    ("seq", 2**63 - 1, 2**63),
    ("tickets_waiting", 1_000_000_000, 1_000_000_001),
    ("oldest_ticket_age_s", 366 * 86_400, 366 * 86_400 + 1),
    ("source", "x" * 200, "x" * 201),
    ("idempotency_key", "x" * 200, "x" * 201),
    ("fleet", "x" * 63, "x" * 64),
    ("supply.allocated", 1_000_000, 1_000_001),
    ("supply.ready", 1_000_000, 1_000_001),
    ("supply.reserved", 1_000_000, 1_000_001),
    ("supply.starting", 1_000_000, 1_000_001),
]


def report(field, value):
    """A report that is right but for this field's value."""
    body = {"num_of_gameservers": 84}
    if field in ("ccu", "players_per_server"):
        body = {"ccu": 1_000, "players_per_server": 1_000}
    name, _, within = field.partition(".")
    return json.dumps(body | {name: {within: value} if within else value})


@pytest.mark.parametrize(("field", "most", "more"), REPORTED, ids=[each[0] for each in REPORTED])
def test_what_a_report_may_hold(field, most, more):
    DemandReport.model_validate_json(report(field, most))
    values = [more] if isinstance(more, str) else [more, HUGE, -1, float("inf"), float("nan")]
    for value in values:
        with pytest.raises(ValidationError) as refused:
            DemandReport.model_validate_json(report(field, value))
        assert refused.value.errors()[0]["loc"] == tuple(field.split("."))


SET = [
    ("min_servers", 100, HUGE),
    ("max_servers", 1_000_000, 1_000_001),
    ("action_factor", 1_000_000, 1_000_001),
    ("max_step_up", 1_000_000, 1_000_001),
    ("max_step_down", 1_000_000, 1_000_001),
    ("scale_down_delay", 1_000, 1_001),
    ("servers_per_ticket", 1_000, 1_000.5),
    ("over_prov_factor", 1_000_000, 1_000_001),
    ("history_len", 100, 101),
    ("learning_freq", 86_400, 86_401),
    ("learning_freq", 0.001, 0.0009),
    ("demand_ttl", 366 * 86_400, 1e300),
    ("decision_ttl", 366 * 86_400, 1e300),
    ("train_batch_size", 1_000_000, 1_000_001),
    ("time_total_s", 7 * 86_400, 1e300),
]


@pytest.mark.parametrize(("name", "most", "more"), SET)
def test_what_a_fleet_s_setting_may_be(monkeypatch, name, most, more):
    variable = f"AUTOPILOT_{name.upper()}"
    assert getattr(FleetSettings(**{name: most}), name) == most
    for value in (more, HUGE, "1e400", "nan", -1):
        monkeypatch.setenv(variable, str(value))
        with pytest.raises(BadSetting, match=variable):
            load_fleets(Settings())


@pytest.mark.parametrize(
    ("name", "most", "more"),
    [
        ("num_env_runners", 1_000, 1_001),
        ("num_learners", 1_000, 1_001),
        ("cloudwatch_namespace", "x" * 255, "x" * 256),
        ("cloudwatch_namespace", "x", ""),
    ],
)
def test_what_a_setting_of_all_fleets_may_be(monkeypatch, name, most, more):
    variable = f"AUTOPILOT_{name.upper()}"
    assert getattr(Settings(**{name: most}), name) == most
    monkeypatch.setenv(variable, str(more))
    with pytest.raises(BadSetting, match=variable):
        load_settings()


def test_an_event_s_servers_are_within_the_fleet_s(monkeypatch):
    event = {"cron": "0 18 * * *", "zone": "UTC", "duration": 3600, "servers": HUGE}
    monkeypatch.setenv("AUTOPILOT_SCHEDULED_FLOORS", json.dumps([event]))
    with pytest.raises(BadSetting, match="raise MAX_SERVERS, or lower the floor"):
        load_fleets(Settings())


@pytest.mark.parametrize("demand", [f"1{'0' * 400}", "1e400", "1.1e15", "nan", "inf", "-1e400"])
def test_what_a_trace_may_not_hold_is_cut_in_the_message(tmp_path, demand):
    path = tmp_path / "t.csv"
    path.write_text(f"timestamp,demand\n2024-06-12T16:50:00Z,{demand}\n")
    with pytest.raises(BadInput, match=r"t.csv, line 2: demand .* can't be") as refused:
        read_trace(path)
    assert len(str(refused.value)) < len(str(path)) + 250


def test_the_largest_demand_of_a_trace(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"timestamp,demand\n2024-06-12T16:50:00Z,{MAX_DEMAND}\n")
    fleet = FleetSettings()
    read = Source(path, None, peak_servers=1_000_000.0).read(fleet)
    assert read.history.demands.tolist() == [1_000_000.0]
    with pytest.raises(BadInput, match="raise --players-per-server"):
        Source(path, None).read(fleet)
    with pytest.raises(BadInput, match="--peak-servers is 1e\\+300: give a number from"):
        Source(path, None, peak_servers=1e300).read(fleet)


@pytest.mark.parametrize("number", [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf")])
def test_what_players_per_server_can_t_be(number):
    with pytest.raises(BadInput, match=r"--players-per-server is .*: give a number from 1e-06"):
        players_per_server(number)


def test_what_a_message_repeats_is_cut():
    assert quoted("mars") == "'mars'"
    assert quoted("x" * 60_000) == f"'{'x' * (QUOTED - 1)}... (60002 characters)"
    assert len(str(UnknownFleet("x" * 60_000, ("default",)))) < 250
