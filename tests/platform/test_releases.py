"""Releases next to each other: an upgrade, a rollback, and every pair of services in between."""

import asyncio
import json
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from prometheus_client import CollectorRegistry

from services.metrics.app import create_app as create_metrics
from services.metrics.fleet_metrics import FleetMetrics
from services.metrics.workload import Workload
from services.prediction.app import create_app as create_prediction
from shared.bus import CHAMPIONS, DECISIONS, MODES, Bus
from shared.messages import Demand, FleetMode, Supply, TrainingJob, utc_now
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.eventually import eventually_async
from tests.platform.rolling import SERVICES, Platform
from tests.platform.stepping import further, stepping

ROOT = Path(__file__).parents[2]
FLEETS = ("default", "eu")
STEP_SECONDS = 3.0
"""A fleet is handed over within a second or two, and two steps must not go by."""
SETTINGS = {"demand_ttl": 600, "decision_ttl": 600}
DEMAND = 60.0
VERSION = "v1"


class Release(NamedTuple):
    version: str
    commit: str


def releases() -> list[Release]:
    """As `releases.toml` names them, oldest first."""
    named = tomllib.loads((ROOT / "releases.toml").read_text())["release"]
    return [Release(**each) for each in named]


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the last release, from its commit."""
    version, commit = releases()[-1]
    archived = git("archive", "--format=tar", commit, "services", "shared", "pyproject.toml")
    if archived.returncode:
        pytest.skip(
            f"{version} is commit {commit}, which is not in this clone: git fetch --unshallow"
        )
    folder = tmp_path_factory.mktemp(f"release-{version}")
    packed = folder.with_suffix(".tar")
    packed.write_bytes(archived.stdout)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"] == version
    where = "import shared, services; print(shared.__file__, services.__path__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=folder, capture_output=True, check=True
    )
    assert found.stdout.count(str(folder).encode()) == 2
    return folder


async def steps_on(platform: Platform, bus: Bus) -> None:
    """Every fleet takes a further step on fresh demand, its decision is told, and it is counted.

    A starved machine may answer too late for a step, which is then marked: the next one counts.
    """

    async def counted(fleet: str) -> float:
        shown = await platform.metrics("metrics")
        found = re.search(rf'autopilot_steps_total{{fleet="{fleet}"}} (\S+)', shown)
        return 0.0 if found is None else float(found[1])

    async def step(fleet: str) -> int:
        record = await bus.fleet_record(fleet)
        return 0 if record is None else record.step

    async def newest() -> dict[str, str]:
        return {one["fleet"]: one["decided_at"] for one in platform.told if not one["fallback"]}

    before = {fleet: (await step(fleet), await counted(fleet)) for fleet in FLEETS}
    told_before = await newest()

    async def has_gone_on() -> bool:
        told = await newest()
        return all(
            [
                await step(fleet) > steps
                and await counted(fleet) > seen
                and told.get(fleet) != told_before.get(fleet)
                for fleet, (steps, seen) in before.items()
            ]
        )

    await eventually_async(has_gone_on, "every fleet has taken a further step, told and counted")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_release_is_rolled_back_and_upgraded_again_and_nothing_is_lost(
    worker_environment, redis_url, bus, tmp_path, publish_policy, last_release
):
    """Demand goes all the way at every stage; on the way the services of one release meet those of
    the other: its workers theirs, its workers their API services, and the reverse."""
    store = PolicyStore.at(tmp_path / "policies")
    for fleet in FLEETS:
        publish_policy(store, VERSION, fleet)
    champions = [store.champion(fleet) for fleet in FLEETS]
    platform = Platform(worker_environment, tmp_path, FLEETS)

    async def services_and_a_worker(worker: str, code: Path | None) -> None:
        await asyncio.gather(
            platform.replace_services(code, **SETTINGS),
            platform.start_worker(worker, code, **SETTINGS),
        )

    async def decided() -> bool:
        return len(await bus.latest(DECISIONS)) == len(FLEETS)

    async with platform.listening(), platform.reported(DEMAND):
        await services_and_a_worker("new", None)
        await eventually_async(decided, "the first decisions")
        async with platform.asked():
            await services_and_a_worker("old", last_release)
            await steps_on(platform, bus)  # of a new and an old worker, by old services
            await platform.end_worker("new")
            await steps_on(platform, bus)  # all is rolled back
            await services_and_a_worker("newest", None)
            await steps_on(platform, bus)  # of an old and a new worker, by new services
            await platform.end_worker("old")
            await steps_on(platform, bus)

    assert platform.not_told == []
    assert {one["policy_version"] for one in platform.told} == {VERSION}
    assert {one["fallback"] for one in platform.told} <= {None, "stale_demand"}
    assert [store.champion(fleet) for fleet in FLEETS] == champions
    for fleet in FLEETS:
        recorded = await bus.recorded_steps(fleet)
        assert [one.step for one in recorded] == list(range(1, len(recorded) + 1))
        assert {(one.demand, one.gap_steps) for one in recorded} == {(DEMAND, 0)}
        transitions = await bus.newest_transitions(fleet, 1_000)
        assert [one.step for one in transitions] == [one.step for one in recorded]
        assert {one.policy_version for one in transitions} == {VERSION}
    assert await bus.dead_letters(10) == []
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert len(logs) == 3 * (len(SERVICES) + 1)
    wrong = re.compile(r'Traceback|"level": "(error|critical)"|unreadable|not_taken')
    assert [name for name, text in logs.items() if wrong.search(text)] == []


QUEUE_A_JOB = """
import sys
from shared.bus import TrainingQueue
from shared.messages import TrainingJob
queue = TrainingQueue(sys.argv[1])
assert queue.enqueue(TrainingJob.model_validate_json(sys.argv[2]), 60.0)
"""
READ_A_JOB = """
import sys
from shared.bus import TrainingQueue
from shared.messages import TrainingJob
job = TrainingQueue(sys.argv[1]).queue.fetch_job("train-default")
print(TrainingJob.model_validate_json(job.payload).model_dump_json())
"""


@pytest.mark.parametrize("writer", ["last", "this"])
def test_a_training_job_of_either_release_is_read_by_the_other(redis_url, last_release, writer):
    job = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=128).model_dump_json()

    def run(release: str, script: str, *arguments: str) -> str:
        folder = last_release if release == "last" else ROOT
        command = [sys.executable, "-c", script, redis_url, *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout

    run(writer, QUEUE_A_JOB, job)
    assert run("this" if writer == "last" else "last", READ_A_JOB).strip() == job


NEXT = "of the next release"


def with_more(content: bytes) -> str:
    """A message as a next release may write it: a field more, in what is within it too."""
    document: dict[str, Any] = json.loads(content)
    for within in (document, document.get("supply"), document.get("lead_times")):
        if within is not None:
            within["colour"] = NEXT
    if "adaptation" in document:
        document["adaptation"].append(NEXT)
    for move in document.get("moves", ()):
        move.append(NEXT)
    return json.dumps(document)


def written_by_the_next_release(raw: Any, policies: Path) -> set[str]:
    """Has all that is stored written anew, and says which keys that were."""
    written = set()
    for key in raw.scan_iter("autopilot:*"):
        kind = raw.type(key)
        if kind == b"hash":
            messages = {k: v for k, v in raw.hgetall(key).items() if v.startswith(b"{")}
            for name, content in messages.items():
                raw.hset(key, name, with_more(content))
        elif kind == b"list":
            messages = dict(enumerate(raw.lrange(key, 0, -1)))
            for row, content in messages.items():
                raw.lset(key, row, json.dumps([*json.loads(content), NEXT]))
        elif kind == b"stream":
            messages = dict(raw.xrange(key))
            raw.delete(key)
            for id, fields in messages.items():
                raw.xadd(key, fields | {b"message": with_more(fields[b"message"])}, id)
        else:
            continue
        if messages:
            written.add(key.decode().removeprefix("autopilot:"))
    for manifest in policies.rglob("*.json"):
        manifest.write_text(with_more(manifest.read_bytes()))
        written.add(manifest.name)
    return written


async def test_what_a_next_release_adds_to_what_is_stored_stops_nothing(
    redis_url, raw, bus, tmp_path, publish_policy, client_of
):
    store, fleets = PolicyStore.at(tmp_path), Fleets({"default": FleetSettings()})
    champion = publish_policy(store, VERSION)
    supply = Supply(allocated=40, ready=20)
    async with stepping(redis_url, store):
        before = await further(bus)
        await bus.record_demands(
            [Demand(fleet="default", demand=DEMAND, observed_at=utc_now(), supply=supply)], [None]
        )
        await bus.publish(CHAMPIONS, "default", champion)
        mode = FleetMode(fleet="default", shadow=False, since=utc_now())
        await bus.publish(MODES, "default", mode)
    written = written_by_the_next_release(raw, tmp_path)
    assert written >= {"fleet:default", "recorded:default", "transitions", "decisions"}
    assert written >= {"explanations", "demand:newest", "champions", "modes", "policy.json"}

    registry = CollectorRegistry()
    metrics = create_metrics(
        bus=Bus.connect(redis_url),
        registry=registry,
        fleet_metrics=FleetMetrics(registry, fleets, utc_now()),
        workload=Workload(registry, 1),
        put_to_cloudwatch=None,
    )
    prediction = create_prediction(
        bus=Bus.connect(redis_url), fleets=fleets, store=store, clock=utc_now
    )

    async def all_are_counted() -> bool:
        counted = registry.get_sample_value("autopilot_steps_total", {"fleet": "default"})
        return counted == len(await bus.newest_transitions("default", 1_000))

    with structlog.testing.capture_logs() as logs:
        async with client_of(prediction) as lobby, client_of(metrics):
            async with stepping(redis_url, store):
                after = await further(bus)
            await eventually_async(all_are_counted, "every step is counted")
            answers = [await lobby.get(path) for path in ("/prediction", "/explain", "/policies")]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json()["policy_version"] == VERSION
    assert after.step >= before.step + 10
    assert after.adaptation.outcomes > before.adaptation.outcomes
    recorded = await bus.recorded_steps("default")
    assert [one.step for one in recorded] == list(range(1, len(recorded) + 1))
    assert await bus.dead_letters(10) == []
    assert [log for log in logs if log["log_level"] in ("error", "critical")] == []


def test_every_release_but_the_one_at_hand_has_its_commit_named():
    told = re.findall(r"^## (\d+\.\d+\.\d+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    named = [release.version for release in releases()][::-1]
    assert named in (told, told[1:])
    assert all(re.fullmatch("[0-9a-f]{40}", release.commit) for release in releases())
