"""What a fleet's owner lives through: the whole ring, and each of its parts going wrong."""

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from shared.bus import CHAMPIONS
from shared.messages import utc_now
from shared.policies.store import LITERT_MODEL
from tests.platform.ring import STEP_SECONDS, Ring, running, settings


@pytest.fixture
async def ring(tmp_path):
    async with running(tmp_path, settings()) as ring:
        yield ring


def anything(_answer: object) -> bool:
    return True


async def later_than(ring: Ring, answer: dict[str, Any]) -> dict[str, Any]:
    """The first answer of a later decision."""
    return await ring.until(lambda found: found["decided_at"] > answer["decided_at"])


async def promote(ring: Ring, publish_policy, version: str) -> None:
    await ring.bus.publish(CHAMPIONS, "default", publish_policy(ring.store, version))


async def test_nobody_knows_anything_before_the_first_demand(ring):
    response = await ring.predict()
    assert response.status_code == 503
    assert "default" in response.json()["detail"]
    assert await ring.committed_steps() == []


async def test_demand_goes_round_to_a_decision_of_the_pretrained_policy(ring):
    async with ring.demand():
        answer = await ring.until(lambda answer: len(answer["Prediction"]["observations"]) == 10)
        later = await later_than(ring, answer)
    assert later["fallback"] is None
    assert later["policy_version"].startswith("general-5-")
    assert 45 <= later["Prediction"]["num_of_gameservers"] <= 100


async def test_steps_are_numbered_without_hole_and_allocation_follows_targets(ring):
    async with ring.demand():
        await ring.until(lambda answer: (answer["allocation"] or 0) > 10)
        await ring.further(10)
    await ring.bus.open_group("test")
    transitions = [t for _, t in await ring.bus.read_group("test", "test", 1000, 10)]
    assert [t.step for t in transitions] == list(range(1, len(transitions) + 1))
    targets = [10.0] * 5 + [t.target for t in transitions]
    assert [t.allocation for t in transitions] == targets[: len(transitions)]
    periods = {
        (after.at - before.at) / (1 + after.gap_steps)
        for before, after in itertools.pairwise(transitions)
    }
    assert periods == {timedelta(seconds=STEP_SECONDS)}


async def test_a_new_champion_decides_and_answers(ring, publish_policy):
    async with ring.demand():
        await ring.until(lambda answer: answer["fallback"] is None)
        await promote(ring, publish_policy, "v1")
        answer = await ring.until(lambda answer: answer["policy_version"] == "v1")
    assert answer["fallback"] is None


@pytest.mark.parametrize("learning", ["on_policy", "replay"])
async def test_a_fleet_that_learns_on_policy_explores(tmp_path, publish_policy, learning):
    async with running(tmp_path, settings(learning=learning)) as ring, ring.demand():
        champion = publish_policy(ring.store, "v1", exploration=0.05)
        await ring.bus.publish(CHAMPIONS, "default", champion)
        await ring.until(lambda answer: answer["policy_version"] == "v1")
        await ring.further(12)
        newest = await ring.bus.newest_transitions("default", 10)
    assert {transition.policy_version for transition in newest} == {"v1"}
    if learning == "replay":
        assert {transition.behaviour for transition in newest} == {None}
        return
    of_mean = [sum(before.next_observation) / 10 / 100 for before in newest[:-1]]  # what v1 answers
    drawn = newest[1:]
    assert [t.behaviour[0] for t in drawn] == pytest.approx(of_mean, abs=1e-5)
    assert {t.behaviour[1] for t in drawn} == {0.05}
    tried = [t.action - t.behaviour[0] for t in drawn]
    assert len({round(by, 6) for by in tried}) == len(drawn)
    assert max(map(abs, tried)) < 0.3


async def test_a_corrupt_champion_is_refused_and_the_one_before_goes_on(ring, publish_policy):
    async with ring.demand():
        await promote(ring, publish_policy, "v1")
        await ring.until(lambda answer: answer["policy_version"] == "v1")
        broken = publish_policy(ring.store, "v2")
        path = ring.store.files.root.joinpath("default", "v2") / LITERT_MODEL
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        await ring.bus.publish(CHAMPIONS, "default", broken)
        for _ in range(10):
            seen = await ring.until(anything)
            answer = await later_than(ring, seen)
            assert (answer["policy_version"], answer["fallback"]) == ("v1", None)
        await promote(ring, publish_policy, "v3")
        await ring.until(lambda answer: answer["policy_version"] == "v3")


async def test_a_repeated_report_changes_nothing(ring):
    first = await ring.report(50, idempotency_key="once")
    again = await ring.report(50, idempotency_key="once")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["duplicate"] is True
    assert again.json()["id"] == first.json()["id"]
    assert (await ring.report(90, idempotency_key="once")).status_code == 422
    answer = await ring.until(anything)
    assert answer["Prediction"]["curr_demand"] == 50


async def test_a_late_report_does_not_replace_a_newer_one(ring):
    now = utc_now()
    await ring.report(50, observed_at=now.isoformat())
    late = await ring.report(90, observed_at=(now - timedelta(seconds=1)).isoformat())
    assert late.json()["superseded"] is True
    answer = await ring.until(lambda answer: len(answer["Prediction"]["observations"]) == 10)
    assert answer["Prediction"]["curr_demand"] == 50


async def test_a_silent_matchmaker_is_held_for_marked_and_not_trained_on(ring):
    async with ring.demand():
        await ring.until(lambda answer: (answer["allocation"] or 0) > 10)
    silent = await ring.until(lambda answer: answer["fallback"] == "stale_demand")
    await ring.further(5)
    later = await later_than(ring, silent)
    assert later["Prediction"]["num_of_gameservers"] == silent["Prediction"]["num_of_gameservers"]
    held = [row for row in await ring.bus.recorded_steps("default") if not row.usable]
    assert len(held) >= 5
    assert len({row.demand for row in held}) == 1
    async with ring.demand(70):
        back = await ring.until(lambda answer: answer["fallback"] is None)
    assert back["Prediction"]["curr_demand"] > 60
    assert (await ring.bus.recorded_steps("default"))[-1].step == len(await ring.committed_steps())


async def test_redis_stopped_and_started_again_costs_a_gap_and_no_step(ring):
    async with ring.demand():
        await ring.until(lambda answer: (answer["allocation"] or 0) > 10)
        ring.redis.stop()
        await asyncio.sleep(10 * STEP_SECONDS)  # so many steps can't be made
        refused = await ring.report(50)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert (await ring.predict()).status_code == 200, "answers come from memory"
        ring.redis.start()
        before = await ring.committed_steps()
        await later_than(ring, await ring.until(anything))
        await ring.further(20)
    rows = await ring.bus.recorded_steps("default")
    assert [row.step for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > len(before)
    assert any(row.gap_steps for row in rows), "the steps that could not be made are marked"


async def test_training_is_asked_for_once_a_batch_and_never_twice_at_once(tmp_path):
    async with running(tmp_path, settings(train_batch_size=10)) as ring, ring.demand():
        await ring.steps(35)
        assert ring.queue.queue.count == 1
        assert ring.queue.status("default") == "queued"
        ring.queue.queue.fetch_job("train-default").delete()
        await ring.further(15)
        assert ring.queue.status("default") == "queued"
