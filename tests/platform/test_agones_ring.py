"""The ring with an Agones fleet at its end, whose servers take their time."""

import asyncio
import time
from contextlib import asynccontextmanager

import structlog

from tests.eventually import eventually_async
from tests.platform.ring import STEP_SECONDS, running, settings

ASSUMED_S = 5 * STEP_SECONDS
START_SECONDS = 4 * ASSUMED_S
"""Of a game server: far longer than `history_len` steps."""
WORDS = ("lead_time_differs", "AUTOPILOT_HISTORY_LEN=")


class AgonesFleet:
    """Servers that are up `START_SECONDS` after they were asked for; the newest go first."""

    def __init__(self, ring, allocated=0):
        self._ring = ring
        self._allocated = allocated
        self._asked_at = [0.0] * 10

    @property
    def up(self):
        now = time.monotonic()
        return sum(at <= now - START_SECONDS for at in self._asked_at)

    async def sync(self):
        status = {
            "replicas": len(self._asked_at),
            "readyReplicas": max(self.up - self._allocated, 0),
            "reservedReplicas": 0,
            "allocatedReplicas": self._allocated,
        }
        request = {"uid": "u", "name": "default", "namespace": "", "status": status}
        answer = await self._ring.http.post(
            f"{self._ring.prediction}/agones/scale", json={"request": request, "response": None}
        )
        if answer.status_code == 200:
            servers = answer.json()["response"]["replicas"]
            more = servers - len(self._asked_at)
            self._asked_at = self._asked_at[:servers] + [time.monotonic()] * more

    @asynccontextmanager
    async def syncing(self):
        async def sync_for_ever():
            while True:
                await self.sync()
                await asyncio.sleep(STEP_SECONDS / 2)

        task = asyncio.create_task(sync_for_ever())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_what_is_allocated_becomes_the_floor_that_a_lobby_is_told(tmp_path):
    async with running(tmp_path, settings(floor_at_allocated=True)) as ring:
        await ring.report(30)
        await ring.until(lambda answer: answer["fallback"] is None)
        agones = AgonesFleet(ring, allocated=62)
        await agones.sync()
        answer = await ring.until(lambda answer: answer["guard"] == "allocated_floor")
        await ring.further(3)
        counted = (await ring.bus.newest_transitions("default", 1))[0]
        await ring.report(30, supply={"allocated": 71})
        later = await ring.until(lambda answer: answer["Prediction"]["num_of_gameservers"] == 71)
        await ring.further(3)
        newest = (await ring.bus.newest_transitions("default", 1))[0]
    assert answer["Prediction"]["num_of_gameservers"] == 62
    assert (counted.supply.allocated, counted.target) == (62, 62)
    assert later["guard"] == "allocated_floor"
    assert (newest.supply.allocated, newest.target) == (71, 71)


async def test_the_true_lead_time_is_measured_and_a_wrong_assumption_warned_of_once(tmp_path):
    fleet = settings(demand_ttl=60, decision_ttl=60)
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path, fleet) as ring:
            await ring.report(10)
            await ring.until(lambda answer: answer["fallback"] in (None, "no_policy"))
            agones = AgonesFleet(ring)
            async with agones.syncing():
                for demand in (25, 40, 55, 70):
                    await ring.report(demand)
                    await eventually_async(
                        lambda: agones.up,
                        f"{demand} servers are up",
                        holds=lambda up, demand=demand: up >= demand,
                    )
                await ring.further(3)
            newest = (await ring.bus.newest_transitions("default", 1))[0]
    assert newest.lead_times.assumed_s == ASSUMED_S
    assert newest.lead_times.measured_s >= START_SECONDS
    assert newest.supply.ready >= 70
    warnings = [entry for entry in logs if entry["event"] == WORDS[0]]
    assert [entry["log_level"] for entry in warnings] == ["warning"]
    assert WORDS[1] in warnings[0]["advice"]
