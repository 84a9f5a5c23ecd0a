"""The servers that are really there: read in one round trip, recorded with each step."""

import asyncio
from datetime import timedelta

import redis
import structlog

from services.environment.step import Due, StepInput, step_fleet
from services.environment.supply import Supplies, newer
from shared.bus import Bus
from shared.core.lead_time import LeadTime
from shared.core.parameters import FleetParameters
from shared.messages import FleetRecord, FleetSupply, LeadTimes, Supply
from shared.policies.runtime import RulePolicy
from tests.conftest import NOW
from tests.eventually import eventually_async

PARAMETERS = FleetParameters()
STEP_S = 65.0
ASSUMED_S = 5 * STEP_S


def supply(fleet="eu", seconds=0.0, **counts) -> FleetSupply:
    at = NOW + timedelta(seconds=seconds)
    return FleetSupply(fleet=fleet, at=at, supply=Supply(**counts))


class TestReading:
    async def test_many_fleets_take_one_round_trip(self, bus, redis_url):
        fleets = [f"fleet-{number}" for number in range(100)]
        told = [supply(fleet, allocated=number) for number, fleet in enumerate(fleets)]
        await bus.record_supplies(told[:50])
        supplies = Supplies(bus, fleets, STEP_S)
        with redis.Redis.from_url(redis_url) as raw:
            raw.config_resetstat()
            found = await asyncio.gather(*(supplies.newest(fleet) for fleet in fleets))
            calls = raw.info("commandstats")
        assert found == [*told[:50], *[None] * 50]
        assert calls["cmdstat_mget"]["calls"] == 1
        assert "cmdstat_get" not in calls

    async def test_it_is_read_again_when_it_grows_old(self, bus):
        supplies = Supplies(bus, ["eu"], 0.02)
        assert await supplies.newest("eu") is None
        await bus.record_supplies([supply(allocated=3)])
        newest = await eventually_async(lambda: supplies.newest("eu"), "it is read again")
        assert newest == supply(allocated=3)

    async def test_while_redis_is_away_it_is_not_known_and_said_once(self, own_redis):
        bus = Bus.connect(own_redis.url)
        await bus.record_supplies([supply(allocated=3)])
        supplies = Supplies(bus, ["eu"], 0.0)
        assert await supplies.newest("eu") is not None
        own_redis.stop()
        with structlog.testing.capture_logs() as logs:
            assert await supplies.newest("eu") is None
            assert await supplies.newest("eu") is None
        assert [entry["event"] for entry in logs] == ["supplies_not_read"]
        own_redis.start()
        assert await supplies.newest("eu") == supply(allocated=3)
        await bus.close()

    async def test_what_is_no_supply_is_passed_over(self, bus, redis_url):
        with redis.Redis.from_url(redis_url) as raw:
            raw.set("autopilot:supply:eu", b"nonsense")
        await bus.record_supplies([supply("us", allocated=3)])
        assert await bus.newest_supplies(["eu", "us"]) == {"us": supply("us", allocated=3)}


def test_the_newer_of_two_counts():
    older, later = supply(allocated=3), supply(allocated=5, seconds=1)
    assert newer(older, later) == newer(later, None, older) == later
    assert newer(None, None) is None


def walk(targets_and_supplies) -> list[FleetRecord]:
    """Commits of a fleet whose demand follows, one step each `STEP_S`."""
    commits, record = [], None
    for number, (demand, told) in enumerate(targets_and_supplies):
        due = Due(NOW + timedelta(seconds=number * STEP_S), 0)
        rule = RulePolicy(PARAMETERS)
        commit = step_fleet(
            StepInput(
                "eu",
                record,
                rule,
                PARAMETERS,
                due,
                due.at,
                demand,
                step_seconds=STEP_S,
                supply=told,
            )
        )
        commits.append(commit)
        record = FleetRecord.model_validate_json(commit.record.model_dump_json())
        assert record == commit.record
    return commits


def test_without_supply_a_step_is_as_it_was():
    (commit,) = walk([(30.0, None)])
    assert (commit.transition.supply, commit.transition.lead_times) == (None, None)
    assert commit.record.lead_time is None


def test_a_step_has_the_servers_that_are_really_there():
    (commit,) = walk([(30.0, supply(allocated=20, ready=8, reserved=1, starting=4))])
    assert commit.transition.supply == Supply(allocated=20, ready=8, reserved=1, starting=4)
    assert commit.record.lead_time.up == 29


def test_a_supply_that_does_not_tell_all_is_no_measure_of_time():
    (commit,) = walk([(30.0, supply(allocated=20))])
    assert commit.transition.supply == Supply(allocated=20)
    assert commit.record.lead_time is None


def test_the_lead_time_is_measured_over_the_steps_and_survives_a_restart():
    """Told at the second step (65 s); seen when the controller says so, at 365 s."""
    small = {"allocated": 10, "ready": 30}
    steps = [(20.0, supply(**small))] + [
        (60.0, supply(seconds=65 * n, **small)) for n in range(1, 6)
    ]
    steps.append((60.0, supply(allocated=60, ready=40, seconds=365)))
    commits = walk(steps)
    assert [commit.transition.lead_times for commit in commits[:-1]] == [None] * 6
    assert commits[-1].transition.lead_times == LeadTimes(measured_s=300, assumed_s=ASSUMED_S)


def test_a_record_of_before_is_read():
    (commit,) = walk([(30.0, None)])
    before = commit.record.model_dump(exclude={"lead_time"}, mode="json")
    assert FleetRecord.model_validate(before).lead_time is None
    after = commit.record.model_copy(update={"lead_time": LeadTime(up=3)})
    assert FleetRecord.model_validate_json(after.model_dump_json()) == after
