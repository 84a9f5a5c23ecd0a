"""Several sidecars on one Redis: one of them tells what the fleets do, and never none for long."""

from contextlib import AsyncExitStack

import pytest

from services.metrics import leader
from shared.bus import Bus
from tests.platform.sidecar import commit, scrape, sidecar, until

STEPS = "autopilot_steps_total{fleet=default}"
DEMAND = "autopilot_demand{fleet=default}"


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(leader, "RENEW_SECONDS", 0.05)


async def test_one_tells_and_the_next_goes_on_where_it_ended(bus, redis_url, client_of):
    await commit(bus, 1)
    async with AsyncExitStack() as heirs:
        async with client_of(sidecar(redis_url)) as first:
            await until(first, {STEPS: 1.0, DEMAND: 41.0})
            heir = await heirs.enter_async_context(client_of(sidecar(redis_url)))
            await until(heir, {"autopilot_fleets{}": 2.0, "autopilot_training_jobs{}": 0.0})
            await commit(bus, 2)
            await until(first, {STEPS: 2.0, DEMAND: 42.0})
            assert STEPS not in await scrape(heir)
        await commit(bus, 3)
        await until(heir, {STEPS: 1.0, DEMAND: 43.0})


async def test_who_has_lost_its_turn_shows_no_fleet(bus, raw, redis_url, client_of):
    await commit(bus, 1)
    async with client_of(sidecar(redis_url)) as client:
        await until(client, {DEMAND: 41.0, "autopilot_recommended_servers{fleet=default}": 52.0})
        raw.set("autopilot:turn:metrics", "another")
        lost = await until(client, {DEMAND: None, STEPS: 1.0})
        assert "autopilot_recommended_servers{fleet=default}" not in lost
        await commit(bus, 2)
        raw.delete("autopilot:turn:metrics")
        await until(client, {DEMAND: 42.0, STEPS: 2.0})


async def test_a_turn_is_one_processs_until_it_ends_or_falls_silent(bus: Bus, raw):
    assert await bus.take_lease("work", "one", 60)
    assert await bus.take_lease("work", "one", 60)
    assert not await bus.take_lease("work", "two", 60)
    assert await bus.take_lease("other work", "two", 60)
    await bus.end_lease("work", "two")
    assert not await bus.take_lease("work", "two", 60)
    assert 0 < raw.pttl("autopilot:turn:work") <= 60_000
    await bus.end_lease("work", "one")
    assert await bus.take_lease("work", "two", 60)
