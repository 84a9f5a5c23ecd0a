"""What a consumer can't use is set aside, counted once, and to be seen; the others are counted."""

import asyncio
import json

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from services.metrics.app import ONE_AT_A_TIME
from services.metrics.consumer import BATCH, Consumer
from services.metrics.fleet_metrics import FleetMetrics
from shared.bus import TRANSITIONS, Bus
from shared.errors import BusAway
from shared.messages import Supply
from tests.conftest import a_step
from tests.eventually import eventually_async
from tests.platform.sidecar import FLEETS, START, commit

STREAM = "autopilot:transitions"


@pytest.fixture
async def bus(bus):
    await bus.open_group("g")
    return bus


class Consuming:
    """A consumer that runs during a block, with its counters."""

    def __init__(self, bus, handle, at_once=BATCH):
        registry = CollectorRegistry()
        self.unreadable = Counter("unreadable", "of a test", registry=registry)
        self.dead = Counter("dead", "of a test", registry=registry)
        consumer = Consumer(
            bus, "g", handle, self.unreadable, self.dead, TRANSITIONS, at_once=at_once
        )
        self._run = consumer.run

    async def __aenter__(self):
        self.task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def counted(self):
        return self.unreadable._value.get(), self.dead._value.get()


def pending(raw):
    return raw.xpending(STREAM, "g")["pending"]


@pytest.mark.parametrize("at_once", [ONE_AT_A_TIME, 2, BATCH])
async def test_the_poisonous_are_set_aside_and_the_others_taken_once(bus, raw, at_once):
    taken = []

    async def handle(transitions):
        """All or nothing, as the sidecar's."""
        steps = [10 // (step.step - 3) and step.step for step in transitions]
        taken.extend(steps)

    for step in (1, 2, 3, 4):
        await commit(bus, step)
    raw.xadd(STREAM, {"fleet": "default", "message": '{"step": "five"}'})
    for step in (5, 6):
        await commit(bus, step)
    with structlog.testing.capture_logs() as logs:
        async with Consuming(bus, handle, at_once) as consuming:
            await eventually_async(
                lambda: (taken, pending(raw)),
                "the others are taken",
                holds=lambda now: now == ([1, 2, 4, 5, 6], 0),
            )
    assert consuming.counted == (1, 2)
    wrong, poison = await bus.dead_letters(10)
    if poison.reason.startswith("fleet"):
        wrong, poison = poison, wrong
    assert (wrong.reason, wrong.content) == ("fleet: Field required", '{"step": "five"}')
    assert poison.reason == "ZeroDivisionError: integer division or modulo by zero"
    assert json.loads(poison.content)["step"] == 3
    assert (poison.group, poison.stream) == ("g", STREAM)
    assert raw.xrange(STREAM, poison.id, poison.id)
    told = [log for log in logs if log["event"] == "entry_set_aside"]
    assert {log["id"] for log in told} == {wrong.id, poison.id}
    assert not any("exc_info" in log for log in logs)


async def test_a_task_that_is_cancelled_is_no_poison(bus, raw):
    handed = asyncio.Event()

    async def handle(_):
        handed.set()
        await asyncio.Event().wait()

    await commit(bus, 1)
    async with Consuming(bus, handle):
        await asyncio.wait_for(handed.wait(), 20)
    assert pending(raw) == 1
    assert await bus.dead_letters(10) == []


async def test_neither_is_redis_that_is_away(bus, raw):
    async def handle(_):
        raise BusAway("Redis does not answer: a test")

    await commit(bus, 1)
    async with Consuming(bus, handle) as consuming:
        with pytest.raises(BusAway):
            await asyncio.wait_for(asyncio.shield(consuming.task), 20)
    assert pending(raw) == 1
    assert await bus.dead_letters(10) == []


async def test_a_dead_letter_waits_for_redis(bus, raw):
    class Away(Bus):
        tries = 0

        async def set_aside(self, *arguments):
            self.tries += 1
            if self.tries == 1:
                raise BusAway("Redis does not answer: a test")
            await super().set_aside(*arguments)
            if self.tries == 2:
                raise BusAway("the answer got lost")

    async def handle(transitions):
        taken.extend(transitions)

    taken, away = [], Away(bus._client)
    raw.xadd(STREAM, {"message": "no message"})
    await commit(bus, 1)
    async with Consuming(away, handle) as consuming:
        await eventually_async(
            lambda: (len(taken), pending(raw)), "one is taken", holds=lambda now: now == (1, 0)
        )
    assert away.tries == 3
    assert consuming.counted == (1, 1)
    assert len(await bus.dead_letters(10)) == 1


async def test_a_step_that_prometheus_can_t_be_told_is_not_counted_at_all():
    registry = CollectorRegistry()
    metrics = FleetMetrics(registry, FLEETS, START)
    supply = Supply.model_construct(allocated=10**400, ready=None)
    bad = a_step(1).transition.model_copy(update={"supply": supply})
    with pytest.raises(OverflowError):
        await metrics.record_transitions([bad])
    assert registry.get_sample_value("autopilot_steps_total", {"fleet": "default"}) is None


@pytest.fixture
def run(redis_url, autopilot):
    variables = {"AUTOPILOT_REDIS_URL": redis_url, "COLUMNS": "80"}
    return lambda *words, **others: autopilot("dead-letters", *words, **variables | others)


async def test_the_command_shows_them(bus, raw, run):
    nothing = await asyncio.to_thread(run)
    assert (nothing.returncode, nothing.stdout) == (0, "there are no dead letters\n")
    content = f"[red]\x1b[2J{'x' * 9_000}"
    ids = [raw.xadd(STREAM, {"message": content}).decode() for _ in range(3)]
    await bus.open_group("metrics-prometheus")
    for id, entry in await bus.read_group("metrics-prometheus", "metrics", 10, 10):
        reason = f"[bold]it can't be read\x1b[2J: {entry.reason}"
        await bus.set_aside("metrics-prometheus", TRANSITIONS, id, reason, entry.content)

    shown = await asyncio.to_thread(run)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    assert "\x1b" not in shown.stdout
    told = "".join(shown.stdout.split())
    for part in ("[bold]it", "Invalid", STREAM, "metrics-prometheus", *ids):
        assert part in told, shown.stdout

    listed = await asyncio.to_thread(run, "--json", "--newest", "2")
    letters = json.loads(listed.stdout)["dead_letters"]
    assert [letter["id"] for letter in letters] == ids[1:]
    assert letters[0].keys() == {"at", "group", "stream", "id", "reason", "content"}
    assert letters[0]["content"] == content[:4_096]


@pytest.mark.parametrize("newest", ["0", "1001", "many"])
def test_how_many_is_checked(run, newest):
    refused = run("--newest", newest)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "--newest" in refused.stderr


def test_without_redis_the_command_says_so(run, unused_port):
    refused = run(AUTOPILOT_REDIS_URL=f"redis://127.0.0.1:{unused_port()}/0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("autopilot: Redis does not answer")
    assert len(refused.stderr.splitlines()) == 1
