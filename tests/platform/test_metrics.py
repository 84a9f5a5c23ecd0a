"""The sidecar on a real Redis: what Prometheus is told."""

import asyncio
from datetime import timedelta

import pytest
import redis
from prometheus_client import CollectorRegistry

from services.metrics.consumer import Consumer
from services.metrics.fleet_metrics import FleetMetrics
from shared.bus import MODES, TRAININGS, Bus
from shared.errors import BusAway
from shared.messages import FleetMode, LeadTimes, Supply
from tests.conftest import TEN as TEN
from tests.conftest import a_verdict
from tests.eventually import eventually_async
from tests.platform.sidecar import FLEETS, START, commit, sidecar, until


async def test_the_newest_step_and_decision_of_every_fleet(bus, redis_url, client_of):
    for step in (1, 2, 3):
        await commit(bus, step)
    await commit(bus, 1, "eu", demand=100.0, reported_demand=140.0, target=100.0, reward=-350.0)
    async with client_of(sidecar(redis_url)) as client:
        await until(
            client,
            {
                "autopilot_demand{fleet=default}": 43.0,
                "autopilot_target{fleet=default}": 53.0,
                "autopilot_allocation{fleet=default}": 30.0,
                "autopilot_reward{fleet=default}": -4.5,
                "autopilot_recommended_servers{fleet=default}": 54.0,
                "autopilot_steps_total{fleet=default}": 3.0,
                "autopilot_demand{fleet=eu}": 100.0,
                "autopilot_reported_demand{fleet=eu}": 140.0,
                "autopilot_reward{fleet=eu}": -350.0,
                "autopilot_recommended_servers{fleet=eu}": 100.0,
                "autopilot_steps_total{fleet=eu}": 1.0,
            },
        )
        await commit(bus, 4)
        await until(
            client,
            {
                "autopilot_demand{fleet=default}": 44.0,
                "autopilot_recommended_servers{fleet=default}": 55.0,
                "autopilot_steps_total{fleet=default}": 4.0,
            },
        )


async def test_the_servers_that_are_really_there_and_the_time_they_take(bus, redis_url, client_of):
    told = {
        "autopilot_allocated_servers{fleet=default}": 20.0,
        "autopilot_ready_servers{fleet=default}": 8.0,
        "autopilot_lead_time_seconds{fleet=default}": 410.0,
        "autopilot_assumed_lead_time_seconds{fleet=default}": 325.0,
    }
    lead_times = LeadTimes(measured_s=410, assumed_s=325)
    await commit(bus, 1, supply=Supply(allocated=20, ready=8), lead_times=lead_times)
    await commit(bus, 1, "eu")
    async with client_of(sidecar(redis_url)) as client:
        samples = await until(client, told | {"autopilot_steps_total{fleet=eu}": 1.0})
        assert "autopilot_ready_servers{fleet=eu}" not in samples
        assert "autopilot_lead_time_seconds{fleet=eu}" not in samples
        await commit(bus, 2, supply=Supply(allocated=21), lead_times=lead_times)
        samples = await until(client, {"autopilot_allocated_servers{fleet=default}": 21.0})
        assert "autopilot_ready_servers{fleet=default}" not in samples
        assert samples["autopilot_lead_time_seconds{fleet=default}"] == 410


async def test_missing_and_idle_servers_are_summed_where_demand_is_known(bus, redis_url, client_of):
    await commit(bus, 1, allocation=30.0, reported_demand=40.0)
    await commit(bus, 2, allocation=30.0, reported_demand=27.5, gap_steps=7)
    await commit(bus, 3, allocation=30.0, reported_demand=90.0, stale=True)
    await commit(bus, 4, allocation=30.0, reported_demand=30.0, gap_steps=2)
    async with client_of(sidecar(redis_url)) as client:
        await until(
            client,
            {
                "autopilot_steps_total{fleet=default}": 4.0,
                "autopilot_stale_steps_total{fleet=default}": 1.0,
                "autopilot_gap_steps_total{fleet=default}": 9.0,
                "autopilot_unserved_server_steps_total{fleet=default}": 10.0,
                "autopilot_idle_server_steps_total{fleet=default}": 2.5,
            },
        )


async def test_who_is_in_shadow(bus, redis_url, client_of):
    await commit(bus, 1)
    async with client_of(sidecar(redis_url)) as client:
        in_shadow = "autopilot_in_shadow{fleet=default}"
        await until(client, {in_shadow: 0.0})
        for shadow in (True, False):
            mode = FleetMode(fleet="default", shadow=shadow, since=START)
            await bus.publish(MODES, "default", mode)
            await until(client, {in_shadow: float(shadow)})


async def test_a_fleet_that_is_not_configured_has_no_recommendation(bus, redis_url, client_of):
    await commit(bus, 1, "old")
    async with client_of(sidecar(redis_url)) as client:
        samples = await until(client, {"autopilot_steps_total{fleet=old}": 1.0})
        await commit(bus, 1, "eu")
        samples = await until(client, {"autopilot_recommended_servers{fleet=eu}": 52.0})
        assert "autopilot_recommended_servers{fleet=old}" not in samples


async def test_trainings_are_counted_once_and_those_before_the_start_are_not(
    bus, redis_url, client_of
):
    def outcome(minutes, outcome, seconds):
        at = START + timedelta(minutes=minutes)
        return a_verdict(fleet="eu", at=at, outcome=outcome, seconds=seconds)

    await bus.publish(TRAININGS, "eu", outcome(-1, "published", 99.0))
    async with client_of(sidecar(redis_url)) as client:
        for ended in (outcome(1, "published", 5.0), outcome(2, "failed", 0.5)):
            await bus.publish(TRAININGS, "eu", ended)
            await bus.publish(TRAININGS, "eu", ended)
            # Before the next: of a latest state that is read late, only the newest is counted.
            counted = f"autopilot_trainings_total{{fleet=eu,outcome={ended.outcome}}}"
            await until(client, {counted: 1.0})
        await bus.publish(TRAININGS, "eu", outcome(3, "published", 6.0))
        await until(
            client,
            {
                "autopilot_trainings_total{fleet=eu,outcome=published}": 2.0,
                "autopilot_trainings_total{fleet=eu,outcome=failed}": 1.0,
                "autopilot_training_seconds_total{fleet=eu}": 11.5,
                "autopilot_training_environment_steps_total{fleet=eu}": 3_000.0,
            },
        )


async def test_an_entry_that_is_no_transition_is_counted_and_passed(bus, raw, redis_url, client_of):
    await commit(bus, 1)
    raw.xadd("autopilot:transitions", {"fleet": "default", "message": "{}"})
    raw.xadd("autopilot:transitions", {"fleet": "default"})
    await commit(bus, 2)
    async with client_of(sidecar(redis_url)) as client:
        await until(
            client,
            {
                "autopilot_steps_total{fleet=default}": 2.0,
                "autopilot_unreadable_transitions_total{group=metrics-prometheus}": 2.0,
            },
        )
        await eventually_async(
            lambda: raw.xpending("autopilot:transitions", "metrics-prometheus")["pending"],
            "all are acknowledged",
            holds=lambda pending: pending == 0,
        )


async def test_a_restarted_sidecar_does_not_count_steps_again(bus, redis_url, client_of):
    await commit(bus, 1)
    async with client_of(sidecar(redis_url)) as client:
        await until(client, {"autopilot_steps_total{fleet=default}": 1.0})
    await commit(bus, 2)
    async with client_of(sidecar(redis_url)) as client:
        await until(
            client,
            {
                "autopilot_steps_total{fleet=default}": 1.0,
                "autopilot_demand{fleet=default}": 42.0,
            },
        )


async def test_redis_stopped_and_started_again(own_redis, client_of):
    own_redis.stop()
    async with client_of(sidecar(own_redis.url)) as client:
        assert (await client.get("/healthz")).status_code == 200
        refused = await client.get("/readyz")
        assert refused.status_code == 503
        assert "Redis does not answer" in refused.json()["detail"]
        assert (await client.get("/metrics")).status_code == 200

        for served in (1.0, 2.0):
            own_redis.start()
            with redis.Redis.from_url(own_redis.url) as client_of_redis:
                client_of_redis.flushall()
            bus = Bus.connect(own_redis.url)
            # Its data is lost, so the fleet begins anew and the group is gone.
            await commit(bus, 1)
            await until(client, {"autopilot_steps_total{fleet=default}": served})
            assert (await client.get("/readyz")).status_code == 200
            await bus.close()
            own_redis.stop()


class LossyBus:
    """A bus whose answers get lost on the way back, now and then."""

    def __init__(self, bus, reads=(), acknowledgements=()):
        self._bus = bus
        self._lost = {"read": set(reads), "acknowledge": set(acknowledgements)}
        self._calls = {"read": 0, "acknowledge": 0}
        self.open_group = bus.open_group

    async def _answer(self, kind, call):
        self._calls[kind] += 1
        lost = self._calls[kind] in self._lost[kind]
        if lost and kind == "acknowledge":
            raise BusAway("lost on the way there")
        answer = await call
        if lost:
            raise BusAway("lost on the way back")
        return answer

    async def read_group(self, *arguments, **options):
        return await self._answer("read", self._bus.read_group(*arguments, **options))

    async def acknowledge(self, *arguments):
        call = self._bus.acknowledge(*arguments)
        try:
            await self._answer("acknowledge", call)
        finally:
            call.close()


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("kind", ["reads", "acknowledgements"])
async def test_each_step_is_handed_over_once_whatever_answer_is_lost(bus, raw, kind, lost):
    handed, counter = [], FleetMetrics(CollectorRegistry(), FLEETS, START)._steps.labels("x")

    async def handle(transitions):
        handed.extend(transition.step for transition in transitions)

    await bus.open_group("g")
    await commit(bus, 1)
    await commit(bus, 2)
    consumer = Consumer(LossyBus(bus, **{kind: {lost}}), "g", handle, counter, counter)
    running = asyncio.create_task(consumer.run())
    await eventually_async(lambda: handed, "the first steps are handed over")
    await commit(bus, 3)
    await eventually_async(
        lambda: (handed, raw.xpending("autopilot:transitions", "g")["pending"]),
        "each is handed over and acknowledged",
        holds=lambda now: now == ([1, 2, 3], 0),
    )
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert handed == [1, 2, 3]
