"""Settings that change under a running platform: what is kept of its policy, and what is said."""

import re
from typing import Any

import numpy as np
import pytest
import structlog

from shared.bus import Bus
from shared.core.fields import notebook_fields
from shared.core.parameters import FleetParameters
from shared.messages import PolicyManifest, utc_now
from shared.policies.store import PolicyStore
from tests.eventually import eventually_async
from tests.platform.rolling import Platform
from tests.platform.stepping import further, stepping

FLEETS = ("default", "eu")
STEP_SECONDS = 3.0
"""A worker's fleets are taken over within a second or two, and two steps must not go by."""
PEAK = 130.0
VERSION = "v1"


def publish_learnt(store: PolicyStore, fleet: str) -> None:
    """A champion as the trainer writes it for a fleet of 100 servers: its graph clips there."""
    from shared.learning.export.agreement import check_agreement
    from shared.learning.export.writer import export
    from shared.learning.models.pretrained import pretrained_module

    parameters = FleetParameters(observation="calendar")
    module = pretrained_module(parameters)
    assert module is not None
    draft = PolicyManifest.draft(parameters, version=VERSION, fleet=fleet, created_at=utc_now())
    with store.writing(fleet, VERSION) as folder:
        export(module, folder)
        check_agreement(module, folder, parameters, np.random.default_rng(0))
        store.publish(draft, folder)
    store.set_champion(fleet, VERSION, utc_now())


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_max_servers_is_raised_in_a_running_ring_and_nothing_is_lost(
    worker_environment, redis_url, tmp_path
):
    """A rolling restart of each service, at the peak of a launch that needs more than the limit."""
    for fleet in FLEETS:
        publish_learnt(PolicyStore.at(tmp_path / "policies"), fleet)
    platform = Platform(worker_environment, tmp_path, FLEETS)
    bus = Bus.connect(redis_url)

    async def at_the_limit() -> bool:
        records = [await bus.fleet_record(fleet) for fleet in FLEETS]
        return all(one is not None and one.targets[-1] == 100 for one in records)

    async def told_more() -> bool:
        newest = {one["fleet"]: one for one in platform.told[since:]}
        told = [one["Prediction"]["num_of_gameservers"] for one in newest.values()]
        return len(told) == len(FLEETS) and min(told) > PEAK

    async def metrics_show_more() -> bool:
        text = await platform.metrics("metrics")
        shown = re.findall(r'autopilot_recommended_servers{fleet="\w+"} ([0-9.]+)', text)
        return len(shown) == len(FLEETS) and min(map(float, shown)) > PEAK

    async def requested_more() -> bool:
        newest = [await bus.newest_transitions(fleet, 1) for fleet in FLEETS]
        return all(transitions and transitions[-1].target > PEAK for transitions in newest)

    async with platform.running(max_servers=100), platform.reported(PEAK):
        await eventually_async(at_the_limit, "all that may be is asked for")
        async with platform.asked():
            await platform.restart(max_servers=150)
            since = len(platform.told)
            await eventually_async(told_more, "the new limit is used")
        await eventually_async(metrics_show_more, "the new limit is in the metrics")
        await eventually_async(requested_more, "what was told is a step's target")
        refused = await platform.metrics("prediction")
    assert {(one["policy_version"], one["fallback"]) for one in platform.told} == {(VERSION, None)}
    assert platform.not_told == []
    assert max(one["Prediction"]["num_of_gameservers"] for one in platform.told[:20]) == 100
    assert "autopilot_policies_refused_total 0.0" in refused
    for fleet in FLEETS:
        transitions = await bus.newest_transitions(fleet, 1_000)
        assert [one.step for one in transitions] == list(range(1, len(transitions) + 1))
        assert {(one.gap_steps, one.stale) for one in transitions} == {(0, False)}
        assert {one.policy_version for one in transitions} == {VERSION}
        assert max(one.target for one in transitions) > PEAK
    await bus.close()


async def left(redis_url: str) -> Any:
    """What the fleet's steps have left in Redis."""
    bus = Bus.connect(redis_url)
    transitions = await bus.newest_transitions("default", 1_000)
    found = transitions, await bus.fleet_record("default"), await bus.explanation("default")
    await bus.close()
    return found


@pytest.mark.parametrize("observation", ["notebook", "calendar"])
async def test_a_longer_history_len_keeps_the_champion_till_training_which_is_asked_for_at_once(
    redis_url, tmp_path, publish_policy, observation
):
    store = PolicyStore.at(tmp_path)
    publish_policy(store, VERSION)
    async with stepping(redis_url, store, observation=observation) as (bus, queue):
        await further(bus)
        assert queue.status("default") is None
    with structlog.testing.capture_logs() as logs:
        async with stepping(redis_url, store, observation=observation, history_len=7) as (
            bus,
            queue,
        ):
            await further(bus)
            asked_for = queue.status("default")
        transitions, record, why = await left(redis_url)
    assert asked_for == "queued"
    assert record.next_policy_version == VERSION
    assert len(record.demands) == len(record.targets) == 7
    assert [one.step for one in transitions] == list(range(1, len(transitions) + 1))
    assert {one.policy_version for one in transitions[1:]} == {VERSION}
    shown = dict(zip(notebook_fields(5), (*record.demands[-5:], *record.targets[-5:]), strict=True))
    assert why.observation == pytest.approx(shown), "the newest of what the fleet keeps"
    assert why.answers == (pytest.approx(sum(shown.values()) / 1000),)
    (kept,) = [line for line in logs if line["event"] == "policy_kept"]
    assert (kept["fleet"], kept["version"]) == ("default", VERSION)
    assert (kept["lead_steps"], kept["fleet_lead_steps"]) == (6, 8)
    assert "it serves until training has made a better one for HISTORY_LEN=7" in kept["means"]
    (changed,) = [line for line in logs if line["event"] == "history_len_changed"]
    assert (changed["before"], changed["now"]) == (5, 7)


async def test_a_shorter_history_len_says_in_one_line_what_is_kept(
    redis_url, tmp_path, publish_policy
):
    store = PolicyStore.at(tmp_path)
    publish_policy(store, VERSION)
    async with stepping(redis_url, store) as (bus, _):
        before = await further(bus)
    with structlog.testing.capture_logs() as logs:
        async with stepping(redis_url, store, history_len=3) as (bus, queue):
            record = await further(bus)
            asked_for = queue.status("default")
            steps = await bus.recorded_steps("default")
    assert asked_for == "queued"
    assert record.next_policy_version == "rule:trend"
    assert [one.step for one in steps] == list(range(1, len(steps) + 1)), "what was recorded stays"
    assert len(steps) >= before.step + 10
    (refused,) = [line for line in logs if line["event"] == "policy_refused"]
    assert refused["serving"] == "rule:trend"
    assert refused["error"] == (
        "policy v1 plans for HISTORY_LEN=5 and the fleet has 3: it stays in the store, and "
        "the next training makes one from the recorded demand"
    )
