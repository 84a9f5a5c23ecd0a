"""The platform in containers: what goes in comes out, and what is killed comes back."""

import itertools
import json

import pytest

from tests.e2e.containers import SERVICES, Platform, docker, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]

RING = ("redis", "matchmaking", "environment", "prediction", "metrics", "play")
"""Without any of them the ring stands still, or nobody sees it turn."""


def steps_in_order(platform: Platform) -> list[int]:
    """Step numbers of the fleet; fails on a hole or a double."""
    steps = [transition["step"] for transition in platform.transitions()]
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    return steps


def turns(platform: Platform) -> None:
    """Return once the sine goes round again, decided by somebody who sees it."""
    seen = platform.predicted(lambda answer: answer["fallback"] in (None, "no_policy"), "an answer")
    platform.predicted(
        lambda answer: (
            answer["fallback"] in (None, "no_policy")
            and answer["decided_at"] > seen["decided_at"]
            and answer["Prediction"]["curr_demand"] != seen["Prediction"]["curr_demand"]
        ),
        "the ring turning",
    )


def test_a_newcomer_gets_answers_on_the_notebooks_sine(platform):
    turns(platform)
    answer = platform.predicted(lambda answer: (answer["allocation"] or 0) > 0, "an allocation")
    assert 10 <= answer["Prediction"]["num_of_gameservers"] <= 100


def test_demand_that_is_posted_comes_out_of_the_prediction(platform):
    assert platform.report(77.0).status_code == 202
    answer = platform.predicted(
        lambda answer: answer["Prediction"]["observations"][4:5] == [77.0], "77 servers, decided on"
    )
    assert answer["Prediction"]["num_of_gameservers"] >= 77


def test_without_the_sine_only_posted_demand_counts(platform):
    platform.compose("stop", "play")
    for demand in (33.0, 44.0):
        platform.report(demand)
        platform.predicted(
            lambda answer, demand=demand: answer["Prediction"]["curr_demand"] == demand,
            f"{demand} servers",
        )
    platform.predicted(lambda answer: answer["fallback"] == "stale_demand", "demand held as stale")
    platform.compose("start", "play")
    turns(platform)


def test_every_container_is_well_confined_and_not_root(platform):
    for service in SERVICES:
        container = platform.container(service)
        assert container["HostConfig"]["ReadonlyRootfs"] is True, service
        assert container["HostConfig"]["CapDrop"] == ["ALL"], service
        assert container["HostConfig"]["Memory"] > 0, service
        assert platform.execute(service, "id", "-u").strip() != "0", service
        assert "Read-only file system" in platform.attempt(service, "touch", "/here"), service
        for ports in container["NetworkSettings"]["Ports"].values():
            assert {port["HostIp"] for port in ports or ()} <= {"127.0.0.1"}, service


def test_redis_keeps_everything_on_disk_and_forgets_nothing_when_full(platform):
    kept = platform.redis_settings()
    assert (kept["appendonly"], kept["maxmemory-policy"]) == ("yes", "noeviction")
    limit = platform.container("redis")["HostConfig"]["Memory"]
    assert 0 < int(kept["maxmemory"]) <= limit / 2


def test_every_container_that_can_tell_says_it_is_well(platform):
    for service in SERVICES:
        if service == "play":
            continue
        until(
            lambda service=service: (
                platform.container(service)["State"]["Health"]["Status"] == "healthy" or None
            ),
            f"{service} healthy",
        )


def test_a_policy_learnt_in_its_container_becomes_champion_and_is_in_s3(platform, s3):
    answer = platform.predicted(
        lambda answer: answer["policy_version"].startswith("20"), "a learnt policy"
    )
    version = answer["policy_version"]
    keys = {
        item["Key"]
        for item in s3.list_objects_v2(Bucket="autopilot", Prefix="policies/default/")["Contents"]
    }
    place = f"policies/default/{version}"
    for name in ("policy.json", "policy.tflite", "tf-model/00000001/saved_model.pb"):
        assert f"{place}/{name}" in keys
    champion = s3.get_object(Bucket="autopilot", Key="policies/default/champion.json")
    assert json.loads(champion["Body"].read())["version"] >= version
    listed = platform.execute("prediction", "autopilot", "policies", "list")
    assert version in listed


def test_more_workers_step_no_fleet_twice(platform):
    platform.compose(
        "up", "--detach", "--no-recreate", "--scale", "environment=3", "--scale", "trainer=2"
    )
    try:
        assert len(platform.containers("environment")) == 3
        before = steps_in_order(platform)[-1]
        until(
            lambda: True if platform.transitions()[-1]["step"] > before + 20 else None, "20 steps"
        )
        transitions = platform.transitions()
    finally:
        platform.compose(
            "up", "--detach", "--no-recreate", "--scale", "environment=1", "--scale", "trainer=1"
        )
    steps_in_order(platform)
    dues = [transition["at"] for transition in transitions]
    assert all(earlier < later for earlier, later in itertools.pairwise(dues))


@pytest.mark.parametrize("service", [*RING, "trainer"])
def test_a_part_that_crashes_comes_back_and_the_ring_turns_again(platform, service):
    restarts = platform.container(service)["RestartCount"]
    platform.crash(service)
    until(
        lambda: platform.container(service)["RestartCount"] > restarts or None,
        f"{service} restarted",
    )
    turns(platform)
    steps_in_order(platform)


@pytest.mark.parametrize("service", [*RING, "trainer"])
def test_a_part_that_an_operator_kills_and_starts_is_all_that_is_needed(platform, service):
    platform.compose("kill", service)
    assert platform.container(service)["State"]["Status"] == "exited"
    platform.compose("up", "--detach", "--no-recreate", service)
    turns(platform)
    steps_in_order(platform)


def test_nothing_was_killed_for_want_of_memory(platform):
    for service in SERVICES:
        assert platform.container(service)["State"]["OOMKilled"] is False, service
    said = docker("ps", "--all", "--filter", f"name={platform.project}", "--format", "{{.Names}}")
    assert len(said.split()) >= len(SERVICES)
