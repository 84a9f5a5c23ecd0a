"""Guards round the ring: from a matchmaker's report to the number that a lobby is told."""

import asyncio
import itertools
from datetime import timedelta
from zoneinfo import ZoneInfo

from shared.bus import CHAMPIONS, MODES
from shared.core.schedule import ScheduledFloor
from shared.messages import FleetMode, utc_now
from tests.platform.ring import STEP_SECONDS, running, settings


async def test_a_floor_at_what_is_in_use_is_told_and_named(tmp_path):
    async with running(tmp_path, settings(floor_at_allocated=True)) as ring:
        await ring.report(30, supply={"allocated": 62}, tickets_waiting=5)
        answer = await ring.until(lambda answer: answer["fallback"] is None)
        await ring.further(2)
        newest = await ring.bus.newest_transitions("default", 1)
    assert answer["Prediction"]["num_of_gameservers"] == 67
    assert (answer["guard"], answer["guards"][0]) == ("allocated_floor", "allocated_floor")
    assert answer["Prediction"]["is_false_positive"] == 0
    assert newest[0].target == 67


async def test_a_limited_step_is_told_named_and_becomes_the_allocation(tmp_path, publish_policy):
    fleet = settings(max_step_up=2, max_step_down=1, demand_ttl=60, decision_ttl=60)
    async with running(tmp_path, fleet) as ring:
        await ring.bus.publish(CHAMPIONS, "default", publish_policy(ring.store, "v1"))
        await ring.report(20)
        await ring.until(lambda answer: answer["policy_version"] == "v1")
        await ring.report(90)
        rising = await ring.until(lambda answer: answer["guard"] == "max_step_up")
        ring.redis.stop()
        await asyncio.sleep(4 * STEP_SECONDS)  # so many steps can't be made
        ring.redis.start()
        await ring.until(lambda answer: answer["Prediction"]["num_of_gameservers"] == 90)
        await ring.further(6)
        transitions = await ring.bus.newest_transitions("default", 1000)
    assert rising["Prediction"]["num_of_gameservers"] < 90
    assert "below_demand" in rising["guards"]
    told = [transition.target for transition in transitions[1:]]
    assert all(-1 <= after - before <= 2 for before, after in itertools.pairwise(told))
    assert transitions[-1].allocation == told[-6]


async def test_a_known_event_is_told_and_named_and_explained(tmp_path):
    always = ScheduledFloor("* * * * *", ZoneInfo("UTC"), timedelta(hours=1), 58)
    fleet = settings(scheduled_floors=(always,), max_step_up=4, max_step_down=4)
    async with running(tmp_path, fleet) as ring:
        await ring.report(30)
        answer = await ring.until(lambda answer: answer["fallback"] is None)
        why = (await ring.http.get(f"{ring.prediction}/explain")).json()
    assert answer["Prediction"]["num_of_gameservers"] == 58
    assert answer["guards"] == ["scheduled_floor"]
    assert why["scheduled_floor"] == 58
    assert [guard["guard"] for guard in why["guards"] if guard["after"] > guard["before"]] == [
        "scheduled_floor"
    ]


async def test_a_shadow_is_decided_for_and_scored_until_it_goes_live(tmp_path):
    async with running(tmp_path, settings(shadow=True)) as ring, ring.demand():
        await ring.steps(10)
        refused = await ring.predict()
        assert refused.status_code == 503
        assert "in shadow" in refused.json()["detail"]
        scored = await ring.bus.newest_transitions("default", 10)
        assert len(scored) == 10
        assert all(transition.reward < 1.01 for transition in scored)
        live = FleetMode(fleet="default", shadow=False, since=utc_now())
        await ring.bus.publish(MODES, "default", live)
        answer = await ring.until(lambda answer: answer["fallback"] is None)
    assert answer["shadow"] is False
