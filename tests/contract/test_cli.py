"""What a user gets wrong is one line, exit code 2, and nothing half-written."""

import asyncio
import json
import re
import socket

import httpx
import pytest

from shared.bus import TRAININGS, Bus
from shared.core.parameters import FleetParameters
from shared.policies.runtime import pretrained_manifest
from shared.policies.store import PolicyStore
from tests.conftest import a_verdict, free_port

ROWS = "timestamp,demand\n2024-06-12T16:50:00Z,10\n2024-06-12T17:00:00Z,12\n"


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(ROWS)
    return str(path)


@pytest.fixture
def matchmaking_url(start):
    _, url = start("matchmaking", log_level="error")
    return url


def refused(result, says: str) -> None:
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("up", "--trace"), ("play",)])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "can't read the trace"),
        ("", "column demand and timestamp is missing"),
        ("timestamp,demand\n", "no rows"),
        ("timestamp,demand\nnow,10\n", "line 2"),
    ],
)
def test_a_trace_that_is_none_is_refused_before_anything_starts(
    autopilot, tmp_path, command, rows, says
):
    path = tmp_path / "bad.csv"
    if rows is not None:
        path.write_text(rows)
    refused(autopilot(*command, str(path)), says)
    assert not (tmp_path / ".autopilot").exists()


@pytest.mark.parametrize("per_server", ["0", "-1", "nan", "inf"])
def test_players_per_server_must_be_above_zero(autopilot, trace, per_server):
    refused(autopilot("play", trace, "--players-per-server", per_server), "--players-per-server")


def test_play_to_nobody_is_refused(autopilot, trace):
    url = f"http://127.0.0.1:{free_port()}"
    told = autopilot("play", trace, "--url", url, "--speed", "100", AUTOPILOT_LOG_LEVEL="error")
    refused(told, f"{url} took no demand: start")
    refused(
        autopilot("play", trace, "--url", "http://127.0.0.1:port", "--speed", "100"),
        "is no address",
    )


def test_play_wants_one_source_of_demand(autopilot, trace):
    refused(autopilot("play"), "either a TRACE or --demand")
    refused(autopilot("play", trace, "--demand", "sine1h"), "either a TRACE or --demand")
    refused(autopilot("play", "--demand", "square"), "either a TRACE or --demand")


def test_up_without_playing_takes_no_trace(autopilot, trace):
    refused(autopilot("up", "--no-play", "--trace", trace), "--no-play excludes")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MIN_SERVERS", "200", "are not a range"),
        ("LEARNING_FREQ", "soon", "AUTOPILOT_LEARNING_FREQ"),
        ("GS_INVENTORY_URL", "ftp://x", "gs_inventory_url"),
        ("FLEETS", "nowhere.toml", "nowhere.toml"),
        ("POLICY_STORE", "s3://bucket/prefix", "AUTOPILOT_POLICY_STORE"),
    ],
)
def test_a_wrong_setting_is_named(autopilot, name, value, says):
    refused(autopilot("policies", "list", **{f"AUTOPILOT_{name}": value}), says)


def test_a_port_that_is_taken_is_named_with_what_to_do(autopilot):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = autopilot("up", AUTOPILOT_PREDICTION_PORT=port)
    refused(result, f"port {port} (prediction) is taken")
    assert "AUTOPILOT_PREDICTION_PORT" in result.stderr


def test_play_says_when_the_matchmaker_refuses(autopilot, trace, matchmaking_url):
    refused(autopilot("play", trace, "--fleet", "atlantis", "--url", matchmaking_url), "atlantis")


def test_play_posts_every_row(autopilot, trace, matchmaking_url):
    result = autopilot("play", trace, "--speed", "50", "--url", matchmaking_url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("2 demands accepted")


def test_play_keeps_the_pace_of_the_fleet(autopilot, trace, matchmaking_url):
    options = ("--in-step", "--url", matchmaking_url)
    result = autopilot("play", trace, *options, AUTOPILOT_LEARNING_FREQ="0.02")
    assert result.stdout.startswith("2 demands accepted"), result.stderr
    refused(autopilot("play", trace, *options, "--speed", "50"), "--speed or --in-step")


@pytest.mark.parametrize(("options", "counts"), [((), 12), (("--give-way",), 90)])
def test_play_gives_way_to_a_matchmaker_if_asked_to(
    autopilot, trace, matchmaking_url, options, counts
):
    httpx.post(f"{matchmaking_url}/demand", json={"num_of_gameservers": 90})
    result = autopilot("play", trace, "--speed", "50", "--url", matchmaking_url, *options)
    assert result.stdout.startswith("2 demands accepted"), result.stderr
    known = httpx.get(f"{matchmaking_url}/demand").json()
    assert known["Prediction"]["num_of_gameservers"] == counts


def test_policies_list_shows_champions_and_training(autopilot, redis_url, tmp_path, publish_policy):
    publish_policy(PolicyStore.at(tmp_path / "policies"), "v1")
    result = autopilot(
        "policies", "list", AUTOPILOT_REDIS_URL=redis_url, AUTOPILOT_POLICY_STORE="policies"
    )
    assert result.returncode == 0, result.stderr
    assert "champion" in result.stdout
    assert "v1" in result.stdout
    assert "no job has ended yet" in result.stdout


GENERAL_VERSION = pretrained_manifest(FleetParameters(observation="calendar")).version
"""Of the policy that comes with the package."""


@pytest.mark.parametrize(
    ("settings", "serves"),
    [
        ({}, f"{GENERAL_VERSION} general serves (shared)"),
        ({"AUTOPILOT_OBSERVATION": "notebook"}, "rule:trend rule:trend serves (rule)"),
    ],
)
def test_policies_list_shows_what_serves_a_fleet_without_a_champion(
    autopilot, tmp_path, publish_policy, settings, serves
):
    away = f"redis://127.0.0.1:{free_port()}/0"
    environment = {"AUTOPILOT_REDIS_URL": away, "AUTOPILOT_POLICY_STORE": "policies"}

    def rows():
        listed = autopilot("policies", "list", "--wide", **environment, **settings)
        assert listed.returncode == 0, listed.stderr
        lines = [line.replace("│", " ").split() for line in listed.stdout.splitlines()]
        return [" ".join(line) for line in lines if line[:1] == ["default"]]

    (row,) = rows()
    assert row.startswith(f"default {serves}")
    publish_policy(PolicyStore.at(tmp_path / "policies"), "v1")
    (row,) = rows()
    assert row.startswith("default v1 learnt champion"), "and only that serves now"


def test_policies_show_finds_the_pretrained_policy(autopilot):
    shown = autopilot(
        "policies",
        "show",
        GENERAL_VERSION,
        AUTOPILOT_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["kind"] == "general"


def tell(redis_url, *verdicts):
    async def publish():
        bus = Bus.connect(redis_url)
        for verdict in verdicts:
            await bus.publish(TRAININGS, verdict.fleet, verdict)
        await bus.close()

    asyncio.run(publish())


CONTEST = {"candidate": 3.25, "v1": 4.5, "v0": 5.75, "rule:buffer": 6.5, "rule:constant": 9.0}


@pytest.fixture
def gated(redis_url, tmp_path, publish_policy):
    """A store with a champion, and what the gate has decided; the environment to run with."""
    publish_policy(PolicyStore.at(str(tmp_path / "policies")), "v2", scores={"gate_cost v1": 4.5})
    tell(
        redis_url,
        a_verdict(outcome="failed", version=None, error="no space left"),
        a_verdict(
            winner="candidate",
            costs=CONTEST,
            scored_steps=77,
            champion="v1",
            runner_up="v0",
            live_costs={"v1": 5.0, "v0": 6.0},
            live_steps=300,
        ),
        a_verdict(
            outcome="kept", winner="v2", costs={"candidate": 3.125, "v2": 3.0}, champion="v2"
        ),
    )
    return {"AUTOPILOT_REDIS_URL": redis_url, "AUTOPILOT_POLICY_STORE": "policies"}


def test_policies_list_shows_every_gate_decision_with_its_scores(autopilot, gated):
    out = autopilot("policies", "list", "--wide", **gated).stdout
    (row,) = [line for line in out.splitlines() if "3.250" in line]
    assert re.split(r"\s{2,}", row.strip())[1:] == [
        *("published", "v2, the candidate", "3.250", "4.500", "5.750", "6.500 buffer", "77"),
        "5.000, runner-up 6.000, 300 steps",
    ]
    assert "no space left" in out
    assert "last job kept v2" in out
    newest = autopilot("policies", "list", "--wide", "--decisions", "1", **gated).stdout
    assert "3.125" in newest
    assert "3.250" not in newest
    assert "3.125" not in autopilot("policies", "list", "--verdicts", "0", **gated).stdout


def test_policies_list_fits_80_columns(autopilot, gated, tmp_path, publish_policy):
    store = PolicyStore.at(tmp_path / "policies")
    scores = {"gate_cost candidate": 3.25, "gate_cost rule:buffer": 6.5, "gate_cost rule:a": 7}
    publish_policy(store, "20261128T175555Z-1f3a9c", scores=scores)
    out = autopilot("policies", "list", **gated).stdout
    assert max(map(len, out.splitlines())) <= 80
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "20261128T175555Z-1f3a9c learnt champion 128 steps 3.25 6.50" in rows
    assert "v2 learnt runner-up 128 steps" in rows
    assert any("failed no space left" in row for row in rows)


def test_policies_list_as_json_has_whole_gate_decisions_also_of_those_without_a_version(
    autopilot, gated
):
    listed = json.loads(autopilot("policies", "list", "--json", **gated).stdout)
    (version,) = listed["versions"]
    assert (version["fleet"], version["version"], version["place"]) == ("default", "v2", "champion")
    assert version["scores"] == {"gate_cost v1": 4.5}
    failed, published, kept = listed["verdicts"]["default"]
    assert (failed["outcome"], failed["error"]) == ("failed", "no space left")
    assert failed["version"] is None
    assert (published["winner"], published["scored_steps"]) == ("candidate", 77)
    assert published["costs"] == CONTEST
    assert published["live_costs"] == {"v1": 5.0, "v0": 6.0}
    assert (kept["outcome"], kept["costs"]) == ("kept", {"candidate": 3.125, "v2": 3.0})
    assert "last job kept v2" in listed["training"]["default"]
    newest = autopilot("policies", "list", "--json", "--verdicts", "1", **gated).stdout
    assert json.loads(newest)["verdicts"]["default"] == [kept]


def test_policies_show_adds_the_gate_decisions_on_a_version(autopilot, gated):
    shown = json.loads(autopilot("policies", "show", "v2", **gated).stdout)
    assert shown["version"] == "v2"
    assert [verdict["outcome"] for verdict in shown["verdicts"]] == ["published", "kept"]
    assert shown["verdicts"][0]["costs"] == CONTEST


def test_policies_go_without_redis(autopilot, gated):
    gated["AUTOPILOT_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    listed = autopilot("policies", "list", **gated)
    assert listed.returncode == 0, listed.stderr
    assert "v2" in listed.stdout
    assert "decisions: Redis does not answer" in " ".join(listed.stdout.split())
    as_json = json.loads(autopilot("policies", "list", "--json", **gated).stdout)
    assert [one["version"] for one in as_json["versions"]] == ["v2"]
    assert as_json["verdicts"] is as_json["training"] is None
    shown = autopilot("policies", "show", "v2", **gated)
    document = json.loads(shown.stdout)
    assert document["scores"] == {"gate_cost v1": 4.5}
    assert document["verdicts"] is None
    assert "decisions are unknown: Redis does not answer" in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1


def test_policies_show_names_a_version_that_is_not_there(autopilot):
    refused(autopilot("policies", "show", "v7"), "no policy version 'v7'")
