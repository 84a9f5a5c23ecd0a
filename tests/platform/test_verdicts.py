"""Who serves when nothing learnt pays, and who stops serving: verdicts of whole training jobs."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from shared.bus import CHAMPIONS, TRAININGS, Bus
from shared.messages import PolicyManifest, TrainingJob, utc_now
from shared.policies.runtime import initial_policy
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.conftest import a_step

PAYLOAD = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=1).model_dump_json()
SETTINGS = FleetSettings(time_total_s=1, learning_freq=65)
STEPS = 400
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
KEPT = STEPS // 5
NOISE = np.random.default_rng(0).integers(40, 61, STEPS) + np.repeat(
    [0.0, 9.0], [STEPS - KEPT, KEPT]
)
"""Demand that nobody can foresee: a constant is the best there is."""
BEST = float(np.quantile(NOISE[-KEPT:], 5 / 6, method="inverted_cdf"))
"""Of the constants, on what the gate keeps; what is learnt before that can't know it."""


def publish_constant(store, version, servers, since):
    """A plain rule as the trainer writes it."""
    from shared.learning.export.writer import export
    from shared.learning.models.rule_policy import TunedRulePolicy

    parameters = SETTINGS.parameters
    rule = TunedRulePolicy(0.0, servers, {}, (), 0.0, parameters)
    draft = PolicyManifest.draft(
        parameters,
        version=version,
        fleet="default",
        created_at=since,
        kind="rule:constant",
        observation_fields=rule.fields,
    )
    with store.writing("default", version) as folder:
        export(rule, folder)
        store.publish(draft, folder)
    return store.set_champion("default", version, since)


async def commit(bus, first, demands, version, allocation):
    """Steps as the environment commits them; what is up is not what the policy asks for."""
    for number, demand in enumerate(demands, start=first):
        at = BEGAN + timedelta(seconds=65 * number)
        made = a_step(number, at=at, servers=demand, allocation=allocation, policy_version=version)
        await bus.commit_step(*made)


async def told(bus):
    return (await bus.latest(TRAININGS))["default"], (await bus.latest(CHAMPIONS))["default"]


@pytest.fixture
def jobs():
    from services.trainer import jobs

    return jobs


@pytest.fixture
def context(trainer_context, ray_running):
    return replace(trainer_context, fleets=Fleets({"default": SETTINGS}))


@pytest.fixture
def on_bus(redis_url):
    def use_it(use):
        async def run():
            bus = Bus.connect(redis_url)
            try:
                return await use(bus)
            finally:
                await bus.close()

        return asyncio.run(run())

    return use_it


def test_fleets_share_the_pretrained_policy_until_their_own_pays(
    jobs, context, on_bus, tmp_path, monkeypatch
):
    """What is learnt here is to ask for the last demand, and no rule is in the contest."""
    from services.trainer import fleet_training
    from shared.learning.models.network import module_of
    from shared.learning.selection import contenders
    from shared.learning.training import TrainingResult

    untrained = module_of(SETTINGS.parameters, seed=0)
    monkeypatch.setattr(
        fleet_training, "train", lambda *_, **__: TrainingResult(untrained, 0, {}, {}, untrained)
    )
    monkeypatch.setattr(contenders, "tuned_rules", lambda *_: {})
    general = initial_policy(SETTINGS.parameters).version
    store = PolicyStore.at(str(tmp_path))
    on_bus(lambda bus: commit(bus, 1, NOISE, general, allocation=50.0))
    assert jobs.train(context, PAYLOAD) is None
    outcome = on_bus(lambda bus: bus.latest(TRAININGS))["default"]
    assert outcome.costs["general"] < outcome.costs["candidate"]
    assert (outcome.outcome, outcome.winner) == ("kept", "general")
    assert outcome.champion == outcome.version == general
    assert store.champion("default") is None
    assert store.versions("default") == []


def test_a_rollback_while_the_gate_decides_stays(jobs, context, on_bus, tmp_path, monkeypatch):
    """The gate would keep `v2`, which does best; an operator goes back to `v1` meanwhile."""
    from services.trainer import fleet_training
    from shared.learning.models.network import module_of
    from shared.learning.selection import contenders
    from shared.learning.training import TrainingResult

    untrained = module_of(SETTINGS.parameters, seed=0)
    monkeypatch.setattr(
        fleet_training, "train", lambda *_, **__: TrainingResult(untrained, 0, {}, {}, untrained)
    )
    monkeypatch.setattr(contenders, "tuned_rules", lambda *_: {})
    store = PolicyStore.at(str(tmp_path))
    publish_constant(store, "v1", BEST + 5, BEGAN - timedelta(days=1))
    publish_constant(store, "v2", BEST, BEGAN)
    on_bus(lambda bus: commit(bus, 1, NOISE, "v2", allocation=BEST))

    def incumbents_of(*arguments):
        found = fleet_training.incumbents_of(*arguments)
        store.set_champion("default", "v1", utc_now())
        return found

    monkeypatch.setattr(jobs, "incumbents_of", incumbents_of)
    assert jobs.train(context, PAYLOAD) == "v1"
    outcome, announced = on_bus(told)
    assert (outcome.outcome, outcome.winner, outcome.version) == ("kept", "v2", "v1")
    assert announced == store.champion("default")
    assert (announced.version, announced.runner_up) == ("v1", "v2")


def test_a_champion_that_loses_live_is_demoted_and_does_not_come_back(
    jobs, context, on_bus, tmp_path
):
    store = PolicyStore.at(str(tmp_path))
    publish_constant(store, "v1", BEST, BEGAN - timedelta(days=1))
    before = publish_constant(store, "v2", BEST + 0.05, BEGAN)
    on_bus(lambda bus: commit(bus, 1, NOISE, "v2", allocation=20.0))
    served = jobs.train(context, PAYLOAD)
    outcome, champion = on_bus(told)
    assert outcome.costs["v2"] < 0.99 * outcome.costs["candidate"], "the candidate does not win"
    assert (outcome.outcome, outcome.champion, outcome.runner_up) == ("demoted", "v2", "v1")
    assert outcome.version == served == outcome.winner == "v1"
    assert outcome.live_steps > 256
    assert outcome.live_costs["v2"] == pytest.approx(5 * (NOISE - 20).mean(), rel=0.02)
    assert outcome.live_costs["v1"] < 15
    assert "v2 has cost" in outcome.reason
    assert champion == store.champion("default")
    assert (champion.version, champion.runner_up) == ("v1", before.version)
    assert store.versions("default") == ["v1", "v2"], "nothing new was published"

    on_bus(lambda bus: commit(bus, STEPS + 1, NOISE, "v1", allocation=BEST))
    jobs.train(context, PAYLOAD)
    outcome, champion = on_bus(told)
    assert champion.version != "v2"
    assert (outcome.champion, outcome.runner_up) == ("v1", "v2")
    assert "v1" in outcome.costs
    assert "v2" not in outcome.costs, "who was demoted does not come back by itself"
