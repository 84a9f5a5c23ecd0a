"""The bus on a real Redis: what is committed once, kept in order, followed and queued."""

import asyncio
import json
from datetime import timedelta

import pytest
import rq
import structlog

from shared.bus import (
    CHAMPIONS,
    DECISIONS,
    DEMANDS,
    TRAININGS,
    TRANSITIONS,
    Bus,
    IdempotencyKey,
    TrainingQueue,
    Unreadable,
    keys,
    wait_for_redis,
)
from shared.bus.keys import EXPLANATIONS
from shared.core.lead_time import LeadTime
from shared.errors import BadSetting, BusAway, StepConflict
from shared.messages import Champion, Demand, TrainingJob
from tests import conftest
from tests.conftest import NOW, a_verdict, an_explanation, poisoned
from tests.eventually import eventually_async


def later(seconds):
    return NOW + timedelta(seconds=seconds)


def demand(servers, seconds=0, fleet="eu"):
    return Demand(fleet=fleet, demand=servers, observed_at=later(seconds))


def a_step(step, fleet="eu", servers=50.0):
    """One a second."""
    return conftest.a_step(step, fleet, servers, at=later(step))


def sent(key, payload="10 servers"):
    return IdempotencyKey(key, digest=payload)


def everything(raw):
    """All that Redis holds, to compare."""
    return {key: raw.dump(key) for key in raw.scan_iter()}


class TestDemand:
    async def test_nothing_is_known_before_the_first_report(self, bus):
        assert await bus.newest_demand("eu") is None

    async def test_the_newest_by_observed_at_serves_whatever_came_last(self, bus):
        reports = [demand(10, 0), demand(30, 60), demand(20, 30)]
        receipts = await bus.record_demands(reports, [None] * 3)
        assert [receipt.superseded for receipt in receipts] == [False, False, True]
        assert await bus.newest_demand("eu") == demand(30, 60)

    async def test_of_two_observed_together_the_later_report_serves(self, bus):
        await bus.record_demands([demand(10), demand(20)], [None, None])
        assert (await bus.newest_demand("eu")).demand == 20

    async def test_a_microsecond_counts(self, bus):
        newer = Demand(fleet="eu", demand=2, observed_at=NOW + timedelta(microseconds=1))
        receipts = await bus.record_demands([newer, demand(1)], [None, None])
        assert receipts[1].superseded
        assert await bus.newest_demand("eu") == newer

    async def test_a_repeated_key_changes_nothing_and_names_the_first(self, bus, raw):
        (first,) = await bus.record_demands([demand(10)], [sent("k")])
        before = everything(raw)
        (again,) = await bus.record_demands([demand(10, 60)], [sent("k")])
        assert again.id == first.id
        assert (first.duplicate, again.duplicate) == (False, True)
        assert not first.conflict
        assert not again.conflict
        assert everything(raw) == before

    async def test_a_key_of_another_payload_is_a_conflict_and_changes_nothing(self, bus, raw):
        (first,) = await bus.record_demands([demand(10)], [sent("k")])
        before = everything(raw)
        (other,) = await bus.record_demands([demand(99, 60)], [sent("k", "99 servers")])
        assert (other.id, other.duplicate, other.conflict) == (first.id, False, True)
        assert everything(raw) == before

    async def test_a_key_that_the_release_before_has_seen_is_seen(self, bus, raw):
        raw.set(keys.SEEN.format(fleet="eu", key="k"), "1795379581000-0")
        (again,) = await bus.record_demands([demand(10)], [sent("k")])
        assert again == ("1795379581000-0", True, False, False)
        assert raw.xlen(DEMANDS.changes) == 0

    async def test_no_report_of_a_batch_fails_alone(self, bus, raw):
        """What stands under its names may be anything: those before it are recorded by then."""
        raw.lpush(keys.SEEN.format(fleet="eu", key="k"), "a list")
        raw.hset(keys.NEWEST_AT, "eu", "no number")
        receipts = await bus.record_demands([demand(10), demand(20, 60)], [None, sent("k")])
        assert [receipt.duplicate for receipt in receipts] == [False, False]
        assert (await bus.newest_demand("eu")).demand == 20

    async def test_a_repeated_key_within_one_batch(self, bus, raw):
        reports = [demand(10), demand(20, 60), demand(30, 60)]
        names = [sent("k"), sent("k"), sent("k", "30 servers")]
        receipts = await bus.record_demands(reports, names)
        assert [receipt.duplicate for receipt in receipts] == [False, True, False]
        assert [receipt.conflict for receipt in receipts] == [False, False, True]
        assert raw.xlen(DEMANDS.changes) == 1
        assert (await bus.newest_demand("eu")).demand == 10

    async def test_two_fleets_may_use_the_same_key(self, bus):
        reports = [demand(10, fleet="eu"), demand(20, fleet="us")]
        receipts = await bus.record_demands(reports, [sent("k"), sent("k")])
        assert [receipt.duplicate for receipt in receipts] == [False, False]
        assert (await bus.newest_demand("us")).demand == 20

    async def test_reports_without_a_key_are_never_duplicates(self, bus, raw):
        receipts = await bus.record_demands([demand(10)] * 3, [None] * 3)
        assert not any(receipt.duplicate for receipt in receipts)
        assert raw.xlen(DEMANDS.changes) == 3

    async def test_a_key_is_remembered_for_ten_minutes(self, bus, raw):
        await bus.record_demands([demand(10)], [sent("k")])
        (seen,) = raw.keys("autopilot:demand:seen:*")
        assert 590 < raw.ttl(seen) <= 600

    async def test_a_newest_demand_that_can_t_be_read_is_none(self, bus, raw):
        raw.hset("autopilot:demand:newest", "eu", poisoned(demand(10)))
        assert await bus.newest_demand("eu") is None
        assert await bus.latest(DEMANDS) == {}

    async def test_a_superseded_report_is_recorded(self, bus, raw):
        await bus.record_demands([demand(30, 60), demand(20, 0)], [None, None])
        kept = [Demand.model_validate_json(f[b"message"]) for _, f in raw.xrange(DEMANDS.changes)]
        assert kept == [demand(30, 60), demand(20, 0)]

    async def test_the_stream_is_bounded(self, bus, raw, monkeypatch):
        monkeypatch.setattr(keys, "DEMAND_LENGTH", 100)
        for _ in range(10):
            await bus.record_demands([demand(10)] * 100, [None] * 100)
        assert raw.xlen(DEMANDS.changes) < 300


class TestSteps:
    async def test_recorded_steps_that_can_t_be_read_are_left_out_as_a_gap(self, bus, raw):
        for step in (1, 2, 3, 4):
            await bus.commit_step(*a_step(step))
        recorded = await bus.recorded_steps("eu")
        for row, up in ((1, 10**400), (2, -1)):
            raw.lset("autopilot:recorded:eu", row, json.dumps([*recorded[row][:7], up, 0.0]))
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                read = await bus.recorded_steps("eu")
                assert read == [recorded[0], recorded[3]._replace(gap_steps=2)]
        (told,) = logs
        assert (told["event"], told["left_out"], told["of"]) == ("recorded_steps_unreadable", 2, 4)

    async def test_steps_that_a_later_release_recorded_are_read(self, bus, raw):
        for step in (1, 2):
            await bus.commit_step(*a_step(step))
        recorded = await bus.recorded_steps("eu")
        raw.lset("autopilot:recorded:eu", 1, json.dumps([*recorded[1], "more"]))
        with structlog.testing.capture_logs() as logs:
            assert await bus.recorded_steps("eu") == recorded
        assert logs == []

    async def test_a_record_with_a_lead_time_of_the_release_before_is_read(self, bus, raw):
        record = a_step(1).record.model_copy(update={"lead_time": LeadTime(10**400)})
        raw.hset("autopilot:fleet:eu", mapping={"step": 1, "state": record.model_dump_json()})
        assert (await bus.fleet_record("eu")).lead_time.up == 10**400

    async def test_nothing_is_known_before_the_first_step(self, bus):
        assert await bus.fleet_record("eu") is None
        assert await bus.recorded_steps("eu") == []
        assert await bus.latest(DECISIONS) == {}

    async def test_a_step_is_committed_whole(self, bus, raw):
        record, recorded, transition, decision = a_step(1)
        await bus.commit_step(record, recorded, transition, decision)
        assert await bus.fleet_record("eu") == record
        assert await bus.recorded_steps("eu") == [recorded]
        assert await bus.latest(DECISIONS) == {"eu": decision}
        await bus.open_group("g")
        ((_, read),) = await bus.read_group("g", "c", 10, 10)
        assert read == transition
        assert raw.xlen(DECISIONS.changes) == 1

    async def test_why_is_committed_with_the_step_or_not_at_all(self, bus):
        assert await bus.explanation("eu") is None
        why = an_explanation(fleet="eu", step=2)
        await bus.commit_step(*a_step(1), explanation=why)
        assert await bus.explanation("eu") == why
        other = why.model_copy(update={"step": 3})
        with pytest.raises(StepConflict):
            await bus.commit_step(*a_step(1), explanation=other)
        assert await bus.explanation("eu") == why
        await bus._client.hset(EXPLANATIONS, "eu", "{}")
        assert await bus.explanation("eu") is None

    @pytest.mark.parametrize("step", [1, 2, 4, 9])
    async def test_a_step_that_does_not_follow_the_last_changes_nothing(self, bus, raw, step):
        for committed in (1, 2):
            await bus.commit_step(*a_step(committed))
        before = everything(raw)
        with pytest.raises(StepConflict, match=rf"'eu': step {step} .* last committed step 2"):
            await bus.commit_step(*a_step(step, servers=99.0))
        assert everything(raw) == before

    async def test_the_first_step_is_step_one(self, bus, raw):
        with pytest.raises(StepConflict):
            await bus.commit_step(*a_step(2))
        assert everything(raw) == {}

    async def test_of_two_workers_one_commits_the_step(self, bus, redis_url):
        other = Bus.connect(redis_url)
        outcomes = await asyncio.gather(
            *(worker.commit_step(*a_step(1)) for worker in (bus, other)), return_exceptions=True
        )
        await other.close()
        assert sorted(map(type, outcomes), key=str) == [type(None), StepConflict]
        assert len(await bus.recorded_steps("eu")) == 1

    async def test_fleets_step_on_their_own(self, bus):
        await bus.commit_step(*a_step(1, "eu"))
        await bus.commit_step(*a_step(1, "us"))
        await bus.commit_step(*a_step(2, "us"))
        assert (await bus.fleet_record("eu")).step == 1
        assert (await bus.fleet_record("us")).step == 2

    async def test_the_recorded_demand_keeps_the_newest_steps(self, bus, monkeypatch):
        monkeypatch.setattr(keys, "RECORDED_STEPS", 3)
        for step in range(1, 6):
            await bus.commit_step(*a_step(step))
        assert [recorded.step for recorded in await bus.recorded_steps("eu")] == [3, 4, 5]

    async def test_the_streams_are_bounded(self, bus, raw, monkeypatch):
        monkeypatch.setattr(keys, "TRANSITIONS_LENGTH", 100)
        monkeypatch.setattr(keys, "CHANGES_LENGTH", 50)
        for step in range(1, 701):
            await bus.commit_step(*a_step(step))
        assert raw.xlen("autopilot:transitions") < 300
        assert raw.xlen(DECISIONS.changes) < 300


class TestGroups:
    async def test_a_group_starts_at_the_oldest_and_is_made_once(self, bus):
        await bus.commit_step(*a_step(1))
        await bus.open_group("g")
        await bus.open_group("g")
        ((_, transition),) = await bus.read_group("g", "c", 10, 10)
        assert transition.step == 1
        assert await bus.read_group("g", "c", 10, 10) == []

    async def test_what_is_not_acknowledged_is_pending_and_what_is_is_not(self, bus):
        await bus.open_group("g")
        for step in (1, 2, 3):
            await bus.commit_step(*a_step(step))
        entries = await bus.read_group("g", "c", 10, 10)
        await bus.acknowledge("g", [entries[0][0], entries[2][0]])
        pending = await bus.read_group("g", "c", 10, 10, pending=True)
        assert [transition.step for _, transition in pending] == [2]

    async def test_no_more_than_asked_for(self, bus):
        await bus.open_group("g")
        for step in (1, 2, 3):
            await bus.commit_step(*a_step(step))
        assert len(await bus.read_group("g", "c", 2, 10)) == 2
        assert len(await bus.read_group("g", "c", 2, 10)) == 1

    async def test_groups_do_not_take_from_each_other(self, bus):
        await bus.commit_step(*a_step(1))
        for group in ("g", "h"):
            await bus.open_group(group)
            assert len(await bus.read_group(group, "c", 10, 10)) == 1

    async def test_acknowledging_nothing(self, bus):
        await bus.open_group("g")
        await bus.acknowledge("g", [])

    async def test_an_entry_that_is_no_transition_says_why_and_can_be_acknowledged(self, bus, raw):
        await bus.open_group("g")
        raw.xadd("autopilot:transitions", {"fleet": "eu", "message": '{"step": "one"}'})
        raw.xadd("autopilot:transitions", {"something": "else"})
        await bus.commit_step(*a_step(1))
        entries = await bus.read_group("g", "c", 10, 10)
        wrong, other, transition = (message for _, message in entries)
        assert (wrong.reason[:6], wrong.content) == ("fleet:", b'{"step": "one"}')
        assert other.reason == "it has no field `message`"
        assert b"something" in other.content
        assert transition.step == 1
        await bus.acknowledge("g", [id for id, _ in entries])
        assert await bus.read_group("g", "c", 10, 10, pending=True) == []

    async def test_an_entry_that_was_trimmed_while_pending_says_so(self, bus, raw):
        await bus.open_group("g")
        await bus.commit_step(*a_step(1))
        await bus.read_group("g", "c", 10, 10)
        raw.xtrim("autopilot:transitions", maxlen=0, approximate=False)
        ((_, transition),) = await bus.read_group("g", "c", 10, 10, pending=True)
        assert transition == Unreadable(
            "it was trimmed from the stream before it was acknowledged", b""
        )

    async def test_a_dead_letter_is_acknowledged_and_kept_once(self, bus, raw):
        await bus.open_group("g")
        await bus.commit_step(*a_step(1))
        ((id, _),) = await bus.read_group("g", "c", 10, 10)
        for _ in range(2):  # the first answer got lost
            await bus.set_aside("g", TRANSITIONS, id, "it can't be counted", b"x" * 10_000)
        (letter,) = await bus.dead_letters(10)
        assert letter[1:] == (
            "g",
            "autopilot:transitions",
            id,
            "it can't be counted",
            "x" * keys.DEAD_LETTER_BYTES,
        )
        assert raw.xpending("autopilot:transitions", "g")["pending"] == 0

    async def test_dead_letters_are_bounded_and_read_newest_last(self, bus, raw, monkeypatch):
        monkeypatch.setattr(keys, "DEAD_LETTERS_LENGTH", 100)
        await bus.open_group("g")
        for number in range(500):
            raw.xadd("autopilot:transitions", {"number": number})
        for id, entry in await bus.read_group("g", "c", 500, 10):
            await bus.set_aside("g", TRANSITIONS, id, entry.reason, entry.content)
        assert raw.xlen("autopilot:dead-letters") < 300
        letters = await bus.dead_letters(2)
        assert [b"498" in letter.content.encode() for letter in letters] == [True, False]

    async def test_a_group_that_went_with_redis_data_is_made_again(self, bus, raw):
        await bus.open_group("g")
        raw.flushall()
        assert await bus.read_group("g", "c", 10, 10) == []
        await bus.commit_step(*a_step(1))
        assert len(await bus.read_group("g", "c", 10, 10)) == 1


def champion(version, fleet="eu"):
    return Champion(fleet=fleet, version=version, since=NOW)


class Following:
    """What `follow` has yielded so far, of a task that runs beside the test."""

    def __init__(self, bus, *feeds):
        self.seen = []
        self._task = asyncio.create_task(self._follow(bus, feeds))

    async def _follow(self, bus, feeds):
        async for message in bus.follow(*feeds):
            self.seen.append(message)

    async def until(self, *expected):
        """Wait until exactly these have been seen, in order."""
        await self._so_many(len(expected))
        assert self.seen == list(expected)

    async def until_in_any_order(self, *expected):
        """As `until`; the fleets of a latest state have no order."""
        await self._so_many(len(expected))
        assert sorted(self.seen, key=str) == sorted(expected, key=str)

    async def _so_many(self, number):
        await eventually_async(
            lambda: self.seen, f"{number} messages", holds=lambda seen: len(seen) >= number
        )

    async def until_newest(self, expected):
        """Wait until this is what has been seen last."""
        await eventually_async(
            lambda: self.seen[-1], "the newest", holds=lambda newest: newest == expected
        )

    async def stop(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def following(bus):
    """Start to follow feeds."""
    started = []

    def follow(*feeds, on=bus):
        started.append(Following(on, *feeds))
        return started[-1]

    yield follow
    for one in started:
        await one.stop()


class TestFollow:
    async def test_the_latest_of_every_fleet_then_every_change(self, bus, following):
        await bus.publish(CHAMPIONS, "eu", champion("v1"))
        await bus.publish(CHAMPIONS, "eu", champion("v2"))
        await bus.publish(CHAMPIONS, "us", champion("w1", "us"))
        follower = following(CHAMPIONS)
        await follower.until_in_any_order(champion("v2"), champion("w1", "us"))
        latest = list(follower.seen)
        await bus.publish(CHAMPIONS, "eu", champion("v3"))
        await bus.publish(CHAMPIONS, "eu", champion("v4"))
        await follower.until(*latest, champion("v3"), champion("v4"))

    async def test_several_feeds_at_once(self, bus, raw, following):
        follower = following(DEMANDS, DECISIONS, TRAININGS)
        await eventually_async(lambda: raw.info("clients")["blocked_clients"], "it follows")
        await bus.record_demands([demand(10)], [None])
        await follower.until(demand(10))
        await bus.commit_step(*a_step(1))
        await follower.until(demand(10), a_step(1)[3])
        outcome = a_verdict(fleet="eu", outcome="failed", version=None, error="no")
        await bus.publish(TRAININGS, "eu", outcome)
        await follower.until(demand(10), a_step(1)[3], outcome)
        assert await bus.latest(TRAININGS) == {"eu": outcome}

    async def test_the_newest_changes_of_a_fleet_come_oldest_first(self, bus, raw):
        ended = [a_verdict(fleet="eu", at=later(number)) for number in range(5)]
        for verdict in ended:
            await bus.publish(TRAININGS, "eu", verdict)
            await bus.publish(TRAININGS, "us", verdict.model_copy(update={"fleet": "us"}))
        raw.xadd(TRAININGS.changes, {"fleet": "eu", "message": '{"version": 1}'})
        assert await bus.newest_changes(TRAININGS, "eu", 3) == ended[2:]
        assert await bus.newest_changes(TRAININGS, "eu") == ended
        assert await bus.newest_changes(TRAININGS, "nowhere", 3) == []

    async def test_what_can_not_be_read_is_left_out(self, bus, raw, following):
        raw.hset(CHAMPIONS.state, "xx", "{")
        await bus.publish(CHAMPIONS, "eu", champion("v1"))
        follower = following(CHAMPIONS)
        await follower.until(champion("v1"))
        raw.xadd(CHAMPIONS.changes, {"fleet": "eu", "message": '{"version": 1}'})
        await bus.publish(CHAMPIONS, "eu", champion("v2"))
        await follower.until(champion("v1"), champion("v2"))
        assert await bus.latest(CHAMPIONS) == {"eu": champion("v2")}

    async def test_a_restart_of_redis_is_survived(self, own_redis, following):
        bus = Bus.connect(own_redis.url)
        await bus.publish(CHAMPIONS, "eu", champion("v1"))
        follower = following(CHAMPIONS, on=bus)
        await follower.until(champion("v1"))
        own_redis.stop()
        own_redis.start()
        await bus.publish(CHAMPIONS, "eu", champion("v2"))
        await follower.until_newest(champion("v2"))
        await bus.publish(CHAMPIONS, "eu", champion("v3"))
        await follower.until_newest(champion("v3"))
        await follower.stop()
        await bus.close()

    async def test_it_waits_for_a_redis_that_is_not_there_yet(self, own_redis, following):
        own_redis.stop()
        bus = Bus.connect(own_redis.url)
        follower = following(CHAMPIONS, on=bus)
        await asyncio.sleep(0.1)
        own_redis.start()
        await bus.publish(CHAMPIONS, "eu", champion("v1"))
        await follower.until(champion("v1"))
        await follower.stop()
        await bus.close()

    @pytest.mark.parametrize("ticks", range(12))
    async def test_it_ends_when_cancelled_wherever_it_is(self, bus, ticks):
        await bus.ping()
        follower = Following(bus, CHAMPIONS)
        for _ in range(ticks):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await follower.stop()


class TestAway:
    @pytest.mark.parametrize(
        "call",
        [
            lambda bus: bus.ping(),
            lambda bus: bus.record_demands([demand(1)], [None]),
            lambda bus: bus.newest_demand("eu"),
            lambda bus: bus.fleet_record("eu"),
            lambda bus: bus.commit_step(*a_step(1)),
            lambda bus: bus.recorded_steps("eu"),
            lambda bus: bus.open_group("g"),
            lambda bus: bus.read_group("g", "c", 1, 10),
            lambda bus: bus.acknowledge("g", ["1-1"]),
            lambda bus: bus.publish(CHAMPIONS, "eu", champion("v1")),
            lambda bus: bus.latest(CHAMPIONS),
        ],
    )
    async def test_every_call_says_so(self, own_redis, call):
        own_redis.stop()
        bus = Bus.connect(own_redis.url)
        with pytest.raises(BusAway, match="AUTOPILOT_REDIS_URL"):
            await call(bus)
        await bus.close()

    async def test_a_call_goes_on_after_a_restart(self, own_redis):
        bus = Bus.connect(own_redis.url)
        await bus.ping()
        own_redis.stop()
        own_redis.start()
        await bus.ping()
        await bus.close()

    async def test_a_redis_that_is_full_is_away(self, bus, raw):
        raw.config_set("maxmemory", "1")
        try:
            with pytest.raises(BusAway, match="out of memory"):
                await bus.publish(CHAMPIONS, "eu", champion("v1"))
        finally:
            raw.config_set("maxmemory", "0")

    def test_a_url_that_is_none(self):
        with pytest.raises(BadSetting, match="AUTOPILOT_REDIS_URL=http://redis"):
            Bus.connect("http://redis")

    def test_waiting_for_redis_ends(self, own_redis):
        wait_for_redis(own_redis.url, 1)
        own_redis.stop()
        with pytest.raises(BusAway, match=r"within 0\.2 s"):
            wait_for_redis(own_redis.url, 0.2)


def job(fleet="eu", up_to_step=128):
    return TrainingJob(fleet=fleet, queued_at=NOW, up_to_step=up_to_step)


class TestTrainingQueue:
    def test_a_job_is_queued_as_json(self, queue):
        assert queue.status("eu") is None
        assert queue.enqueue(job(), 60)
        assert queue.status("eu") == "queued"
        (queued,) = queue.queue.get_jobs()
        assert TrainingJob.model_validate_json(queued.args[0]) == job()
        assert queued.timeout == 60

    def test_never_two_for_one_fleet(self, queue):
        assert queue.enqueue(job(), 60)
        assert not queue.enqueue(job(up_to_step=256), 60)
        assert queue.queue.count == 1

    def test_fleets_do_not_wait_for_each_other(self, queue):
        assert queue.enqueue(job("eu"), 60)
        assert queue.enqueue(job("us"), 60)
        assert queue.queue.count == 2

    @pytest.mark.parametrize("status", [rq.job.JobStatus.STARTED, rq.job.JobStatus.SCHEDULED])
    def test_a_job_that_runs_or_waits_for_its_retry_still_counts(self, queue, status):
        assert queue.enqueue(job(), 60)
        (queued,) = queue.queue.get_jobs()
        queue.queue.remove(queued)
        queued.set_status(status)
        assert not queue.enqueue(job(), 60)
        assert queue.status("eu") == status.value

    @pytest.mark.parametrize("status", [rq.job.JobStatus.FAILED, rq.job.JobStatus.FINISHED])
    def test_a_job_that_has_ended_makes_room(self, queue, status):
        assert queue.enqueue(job(), 60)
        (queued,) = queue.queue.get_jobs()
        queue.queue.remove(queued)
        queued.set_status(status)
        assert queue.enqueue(job(up_to_step=256), 60)
        assert queue.status("eu") == "queued"
        (queued,) = queue.queue.get_jobs()
        assert TrainingJob.model_validate_json(queued.args[0]).up_to_step == 256

    def test_without_redis_it_says_so(self, own_redis):
        own_redis.stop()
        queue = TrainingQueue(own_redis.url)
        with pytest.raises(BusAway):
            queue.enqueue(job(), 60)
        with pytest.raises(BusAway):
            queue.status("eu")


# Transitions, newest first


async def test_the_newest_transitions_of_a_fleet_come_oldest_first(bus, monkeypatch):
    monkeypatch.setattr("shared.bus.feeds.PAGE", 3)
    for step in range(1, 6):
        await bus.commit_step(*a_step(step))
        await bus.commit_step(*a_step(step, fleet="us"))
    newest = await bus.newest_transitions("eu", 4)
    assert [(each.fleet, each.step) for each in newest] == [("eu", step) for step in (2, 3, 4, 5)]
    assert [each.step for each in await bus.newest_transitions("eu", 99)] == [1, 2, 3, 4, 5]
    since = await bus.newest_transitions("eu", 99, after=newest[1].at)
    assert [each.step for each in since] == [4, 5]
    assert await bus.newest_transitions("asia", 99) == []


async def test_what_is_no_transition_is_passed_over(bus, raw):
    await bus.commit_step(*a_step(1))
    raw.xadd("autopilot:transitions", {"fleet": "eu", "message": "{"})
    raw.xadd("autopilot:transitions", {"else": "1"})
    assert [each.step for each in await bus.newest_transitions("eu", 9)] == [1]
