"""Leases on a real Redis: who holds a fleet, and that nobody else commits its steps."""

import asyncio
from datetime import timedelta

import pytest

from shared.errors import LeaseLost
from tests import conftest
from tests.conftest import NOW


def a_step(step):
    return conftest.a_step(step, "eu", at=NOW + timedelta(seconds=step))


FLEETS = ("a", "b", "c", "d", "e")


async def test_a_worker_alone_holds_every_fleet_and_keeps_its_leases(bus):
    held = await bus.hold_fleets("one", FLEETS, 60)
    assert set(held) == set(FLEETS)
    assert len(set(held.values())) == len(FLEETS)
    assert await bus.hold_fleets("one", FLEETS, 60) == held


async def test_workers_hold_equal_shares_and_no_fleet_twice(bus):
    before = await bus.hold_fleets("one", FLEETS, 60)
    assert await bus.hold_fleets("two", FLEETS, 60) == {}
    one = await bus.hold_fleets("one", FLEETS, 60)
    two = await bus.hold_fleets("two", FLEETS, 60)
    assert one == {fleet: before[fleet] for fleet in ("a", "b", "c")}
    assert set(two) == {"d", "e"}
    assert await bus.hold_fleets("one", FLEETS, 60) == one


@pytest.mark.parametrize("way", ["ends", "says nothing"])
async def test_the_fleets_of_a_worker_that_is_gone_are_taken(bus, way):
    await bus.hold_fleets("one", FLEETS, 60 if way == "ends" else 0.001)
    if way == "ends":
        await bus.leave_fleets("one")
    await asyncio.sleep(0.01)
    assert set(await bus.hold_fleets("two", FLEETS, 60)) == set(FLEETS)


async def test_only_the_lease_that_a_fleet_has_commits(bus):
    first = await bus.hold_fleets("one", ["eu"], 0.001)
    await bus.commit_step(*a_step(1), lease=first["eu"])
    await asyncio.sleep(0.01)
    second = await bus.hold_fleets("two", ["eu"], 60)
    with pytest.raises(LeaseLost, match="'eu'"):
        await bus.commit_step(*a_step(2), lease=first["eu"])
    assert (await bus.fleet_record("eu")).step == 1
    await bus.commit_step(*a_step(2), lease=second["eu"])
    assert (await bus.fleet_record("eu")).step == 2


async def test_a_lease_taken_again_is_another(bus):
    first = await bus.hold_fleets("one", ["eu"], 0.001)
    await asyncio.sleep(0.01)
    await bus.hold_fleets("two", ["eu"], 0.001)
    await asyncio.sleep(0.01)
    again = await bus.hold_fleets("one", ["eu"], 60)
    with pytest.raises(LeaseLost):
        await bus.commit_step(*a_step(1), lease=first["eu"])
    await bus.commit_step(*a_step(1), lease=again["eu"])


async def test_a_renewal_tells_of_every_change_and_of_no_other(bus):
    assert await bus.renew("one", 60) == 0, "it was not there"
    seen = [await bus.renew("one", 60)]

    async def changed() -> bool:
        seen.append(await bus.renew("one", 60))
        return seen[-1] != seen[-2]

    assert not await changed()
    await bus.hold_fleets("one", FLEETS, 60)
    assert await changed(), "leases were taken"
    await bus.hold_fleets("one", FLEETS, 60)
    assert not await changed()
    await bus.renew("two", 60)
    assert await changed(), "a worker came"
    await bus.renew("two", 60)
    assert not await changed()
    await bus.hold_fleets("one", FLEETS, 60)
    assert await changed(), "leases were given back"
    await bus.leave_fleets("two")
    assert await changed(), "a worker went"
    await bus.leave_fleets("two")
    assert not await changed()
    await bus.renew("three", 1)
    assert await changed(), "a worker came, for a moment"
    await asyncio.sleep(1.1)
    assert await changed(), "it says nothing any more"
    assert seen == sorted(seen)


async def test_a_renewal_keeps_the_fleets_of_a_worker(bus):
    await bus.hold_fleets("one", FLEETS, 1)
    assert await bus.renew("one", 60), "and in time"
    await asyncio.sleep(1.1)
    assert await bus.hold_fleets("two", FLEETS, 60) == {}


async def test_a_worker_that_was_taken_for_gone_hears_of_it(bus):
    await bus.hold_fleets("one", FLEETS, 0.001)
    await asyncio.sleep(0.01)
    await bus.hold_fleets("two", FLEETS, 60)
    assert await bus.renew("one", 60) == 0
    assert await bus.renew("one", 60)
