"""Guards round the ring: from a matchmaker's report to the number that a lobby is told."""

import asyncio
import itertools

from shared.bus import CHAMPIONS
from tests.platform.ring import STEP_SECONDS, running, settings


async def test_a_floor_at_what_is_in_use_is_told_and_named(tmp_path):
    async with running(tmp_path, settings(floor_at_allocated=True)) as ring:
        await ring.report(30, supply={"allocated": 62}, tickets_waiting=5)
        answer = await ring.until(lambda answer: answer["fallback"] is None)
        await ring.steps(len(await ring.committed_steps()) + 2)
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
        await asyncio.sleep(4 * STEP_SECONDS)
        ring.redis.start()
        await ring.until(lambda answer: answer["Prediction"]["num_of_gameservers"] == 90)
        await ring.steps(len(await ring.committed_steps()) + 6)
        transitions = await ring.bus.newest_transitions("default", 1000)
    assert rising["Prediction"]["num_of_gameservers"] < 90
    assert "below_demand" in rising["guards"]
    told = [transition.target for transition in transitions[1:]]
    assert all(-1 <= after - before <= 2 for before, after in itertools.pairwise(told))
    assert transitions[-1].allocation == told[-6]
