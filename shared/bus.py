"""Redis: every key, stream and queue, named once; the only module that imports redis.

| key | type | holds | bound |
|---|---|---|---|
| ``autopilot:demand`` | stream | every demand report | about `DEMAND_LENGTH` |
| ``autopilot:demand:newest`` | hash | fleet -> newest `Demand` by `observed_at` | fleets |
| ``autopilot:demand:newest-at`` | hash | fleet -> its `observed_at`, microseconds | fleets |
| ``autopilot:demand:seen:<fleet>:<key>`` | string | id of the report with that idempotency key | a day |
| ``autopilot:fleet:<fleet>`` | hash | ``step`` and ``state`` (`FleetRecord`) after the last commit | fleets |
| ``autopilot:workers`` | sorted set | environment worker -> when it counts as gone, milliseconds | workers |
| ``autopilot:leases`` | hash | fleet -> `Lease`: fencing token and worker | fleets |
| ``autopilot:leases:token`` | integer | newest fencing token | 1 |
| ``autopilot:supply:<fleet>`` | string | newest `FleetSupply` that the fleet's controller told | `SUPPLY_SECONDS` |
| ``autopilot:recorded:<fleet>`` | list | `RecordedStep`, oldest first: what the trainer replays | `RECORDED_STEPS` |
| ``autopilot:transitions`` | stream | `Transition`, by consumer group | about `TRANSITIONS_LENGTH` |
| ``autopilot:decisions`` | hash | fleet -> newest `Decision` | fleets |
| ``autopilot:decisions:changes`` | stream | `Decision`, as they are made | about `CHANGES_LENGTH` |
| ``autopilot:champions`` | hash | fleet -> `Champion`; the policy store has the truth | fleets |
| ``autopilot:champions:changes`` | stream | `Champion`, as they are moved | about `CHANGES_LENGTH` |
| ``autopilot:training:outcomes`` | hash | fleet -> newest `TrainingOutcome` | fleets |
| ``autopilot:training:changes`` | stream | `TrainingOutcome`, as jobs end | about `CHANGES_LENGTH` |
| ``rq:...`` | RQ's own | queue `training`, one `TrainingJob` a fleet at a time | fleets |
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, NewType, TypeVar

import redis
import redis.asyncio
import rq
import structlog
from pydantic import TypeAdapter, ValidationError
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.serializers import JSONSerializer

from shared.errors import BadSetting, BusAway, LeaseLost, StepConflict
from shared.messages import (
    Champion,
    Decision,
    Demand,
    FleetRecord,
    FleetSupply,
    Message,
    RecordedStep,
    TrainingJob,
    TrainingOutcome,
    Transition,
)

DEMAND_LENGTH = 100_000
"""Reports kept for a look back; readers use the newest."""
TRANSITIONS_LENGTH = 200_000
"""A day of 100 fleets at 65 s is 133,000: consumers may be away that long. A transition takes about
820 bytes, so a day of them 110 MB and all that are kept 165 MB."""
RECORDED_STEPS = 20_000
"""Two weeks at 65 s; about 1 MB a fleet."""
CHANGES_LENGTH = 10_000
IDEMPOTENCY_SECONDS = 86_400
SUPPLY_SECONDS = 120
"""A supply that is not told again counts no longer; Agones tells it every 30 s by default."""
PAGE = 1_000
"""Stream entries in one answer, about 1 MB, when a stream is read backwards."""
TRAINING_QUEUE = "training"
TRAINING_FUNCTION = "services.trainer.jobs.train"
TRAINING_RETRIES = 3
FOLLOW_BLOCK_MS = 1_000
FOLLOW_BATCH = 500
RECONNECT_SECONDS = 0.5
SOCKET_TIMEOUT_SECONDS = 5.0
CONNECTIONS = 32
"""Of one process; a call beyond waits for its turn."""

_SEEN = "autopilot:demand:seen:{fleet}:{key}"
_NEWEST_AT = "autopilot:demand:newest-at"
_FLEET = "autopilot:fleet:{fleet}"
_WORKERS = "autopilot:workers"
_LEASES = "autopilot:leases"
_LEASE_TOKEN = "autopilot:leases:token"  # noqa: S105 - it fences, and is no secret
_SUPPLY = "autopilot:supply:{fleet}"
_RECORDED = "autopilot:recorded:{fleet}"
_TRANSITIONS = "autopilot:transitions"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Feed(Generic[M]):
    """Latest state by fleet in a hash, and the stream of its changes."""

    state: str
    changes: str
    message: type[M]


DEMANDS = Feed("autopilot:demand:newest", "autopilot:demand", Demand)
DECISIONS = Feed("autopilot:decisions", "autopilot:decisions:changes", Decision)
CHAMPIONS = Feed("autopilot:champions", "autopilot:champions:changes", Champion)
TRAININGS = Feed("autopilot:training:outcomes", "autopilot:training:changes", TrainingOutcome)


@dataclass(frozen=True)
class Log(Generic[M]):
    """A stream that consumer groups read."""

    stream: str
    message: type[M]


TRANSITIONS = Log(_TRANSITIONS, Transition)
ENDED_TRAININGS = Log(TRAININGS.changes, TrainingOutcome)


Lease = NewType("Lease", str)
"""That a worker holds a fleet: a fencing token, which grows with every change, and the worker."""


class DemandReceipt(NamedTuple):
    """What became of a demand report."""

    id: str
    duplicate: bool
    superseded: bool


_RECORD_DEMANDS = """
-- KEYS: stream, newest, newest-at, then a seen key for each report ('' for none)
-- ARGV: stream length, seen expiry, then for each report: fleet, message, observed_at in us
local receipts = {}
for i = 4, #KEYS do
  local at = 3 + (i - 4) * 3
  local fleet, message, observed = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local seen = KEYS[i] ~= '' and redis.call('GET', KEYS[i])
  if seen then
    receipts[#receipts + 1] = {seen, 1, 0}
  else
    local newest = redis.call('HGET', KEYS[3], fleet)
    local superseded = newest and tonumber(newest) > tonumber(observed)
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'fleet', fleet, 'message', message)
    if not superseded then
      redis.call('HSET', KEYS[2], fleet, message)
      redis.call('HSET', KEYS[3], fleet, observed)
    end
    if KEYS[i] ~= '' then redis.call('SET', KEYS[i], id, 'EX', ARGV[2]) end
    receipts[#receipts + 1] = {id, 0, superseded and 1 or 0}
  end
end
return receipts
"""

_COMMIT_STEP = """
-- KEYS: fleet, recorded, transitions, decisions, decisions' changes, leases
-- ARGV: fleet, steps committed before, state, recorded step, transition, decision, then the lengths, lease
if ARGV[10] ~= '' and redis.call('HGET', KEYS[6], ARGV[1]) ~= ARGV[10] then return -2 end
local before = redis.call('HGET', KEYS[1], 'step') or '0'
if before ~= ARGV[2] then return tonumber(before) end
redis.call('HSET', KEYS[1], 'step', tonumber(ARGV[2]) + 1, 'state', ARGV[3])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[7]), -1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'fleet', ARGV[1], 'message', ARGV[5])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[6])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[9], '*', 'fleet', ARGV[1], 'message', ARGV[6])
return -1
"""

_HOLD_FLEETS = """
-- KEYS: workers, leases, token; ARGV: worker, milliseconds until it counts as gone, then the fleets
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local there = {}
for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do there[worker] = true end
local share = math.ceil((#ARGV - 2) / redis.call('ZCARD', KEYS[1]))
local held, free = {}, {}
for i = 3, #ARGV do
  local lease = redis.call('HGET', KEYS[2], ARGV[i])
  local owner = lease and string.match(lease, ' (.*)$')
  if owner == ARGV[1] and #held < 2 * share then
    held[#held + 1] = ARGV[i]
    held[#held + 1] = lease
  elseif owner == ARGV[1] then
    redis.call('HDEL', KEYS[2], ARGV[i])
  elseif not (owner and there[owner]) then
    free[#free + 1] = ARGV[i]
  end
end
for _, fleet in ipairs(free) do
  if #held == 2 * share then break end
  local lease = redis.call('INCR', KEYS[3]) .. ' ' .. ARGV[1]
  redis.call('HSET', KEYS[2], fleet, lease)
  held[#held + 1] = fleet
  held[#held + 1] = lease
end
return held
"""

_PUBLISH = """
-- KEYS: state, changes; ARGV: fleet, message, length
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'fleet', ARGV[1], 'message', ARGV[2])
"""

_RECORDED_STEP: TypeAdapter[RecordedStep] = TypeAdapter(RecordedStep)
_log = structlog.get_logger(__name__)


class Bus:
    """The platform's Redis, for asyncio. Every method raises `BusAway` when it does not answer."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._record_demands = client.register_script(_RECORD_DEMANDS)
        self._commit_step = client.register_script(_COMMIT_STEP)
        self._hold_fleets = client.register_script(_HOLD_FLEETS)
        self._publish = client.register_script(_PUBLISH)

    @classmethod
    def connect(cls, url: str) -> "Bus":
        """A bus at a Redis URL; connects with its first call. Raises `BadSetting` for a bad URL."""
        try:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=SOCKET_TIMEOUT_SECONDS,
                socket_timeout=SOCKET_TIMEOUT_SECONDS,
                socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
                retry=AsyncRetry(NoBackoff(), 1),
            )
        except ValueError as error:
            raise BadSetting(f"AUTOPILOT_REDIS_URL={url}: {error}") from error
        return cls(redis.asyncio.Redis.from_pool(pool))

    async def close(self) -> None:
        await self._client.aclose()

    async def ping(self) -> None:
        """Raises `BusAway` unless Redis answers."""
        with _asking():
            await self._client.ping()

    # Demand

    async def record_demands(
        self, demands: Sequence[Demand], idempotency_keys: Sequence[str | None]
    ) -> list[DemandReceipt]:
        """Record reports in one round trip, in order; a repeated idempotency key changes nothing."""
        keys = [DEMANDS.changes, DEMANDS.state, _NEWEST_AT]
        arguments: list[Any] = [DEMAND_LENGTH, IDEMPOTENCY_SECONDS]
        for demand, key in zip(demands, idempotency_keys, strict=True):
            keys.append(_SEEN.format(fleet=demand.fleet, key=key) if key is not None else "")
            observed_us = int(demand.observed_at.timestamp() * 1e6)
            arguments += (demand.fleet, demand.model_dump_json(exclude_none=True), observed_us)
        with _asking():
            receipts = await self._record_demands(keys=keys, args=arguments)
        return [DemandReceipt(id.decode(), bool(dup), bool(late)) for id, dup, late in receipts]

    async def newest_demand(self, fleet: str) -> Demand | None:
        """The demand with the newest `observed_at`."""
        return await self._latest(DEMANDS, fleet)

    # Fleets, shared by workers

    async def hold_fleets(
        self, worker: str, fleets: Sequence[str], seconds: float
    ) -> dict[str, Lease]:
        """The fleets that a worker holds from now on, and says that it is there, for `seconds`.

        Each worker holds an equal share, rounded up: what is beyond its share it gives back, what
        nobody holds who is there it takes, up to its share. It keeps what it has otherwise.
        """
        with _asking():
            held = await self._hold_fleets(
                keys=[_WORKERS, _LEASES, _LEASE_TOKEN],
                args=[worker, int(seconds * 1000), *fleets],
            )
        words = [word.decode() for word in held]
        return dict(zip(words[::2], map(Lease, words[1::2]), strict=True))

    async def leave_fleets(self, worker: str) -> None:
        """A worker ends: others may take its fleets at once."""
        with _asking():
            await self._client.zrem(_WORKERS, worker)

    # Steps

    async def fleet_record(self, fleet: str) -> FleetRecord | None:
        """A fleet's state after its last committed step, or None before the first."""
        with _asking():
            state = await self._client.hget(_FLEET.format(fleet=fleet), "state")
        return None if state is None else FleetRecord.model_validate_json(state)

    async def commit_step(
        self,
        record: FleetRecord,
        recorded: RecordedStep,
        transition: Transition,
        decision: Decision,
        lease: Lease | None = None,
    ) -> None:
        """Commit a step whole or not at all: state, recorded demand, transition, decision.

        Raises, and changes nothing: `LeaseLost` unless `lease` is the one that the fleet has, if
        one is given; `StepConflict` unless it is the step after the fleet's last.
        """
        fleet = record.fleet
        keys = [
            _FLEET.format(fleet=fleet),
            _RECORDED.format(fleet=fleet),
            _TRANSITIONS,
            DECISIONS.state,
            DECISIONS.changes,
            _LEASES,
        ]
        arguments: list[Any] = [
            fleet,
            record.step - 1,
            record.model_dump_json(),
            _RECORDED_STEP.dump_json(recorded),
            transition.model_dump_json(),
            decision.model_dump_json(),
            RECORDED_STEPS,
            TRANSITIONS_LENGTH,
            CHANGES_LENGTH,
            lease or "",
        ]
        with _asking():
            last = await self._commit_step(keys=keys, args=arguments)
        if last == -2:
            raise LeaseLost(f"fleet {fleet!r}: another worker holds it now")
        if last != -1:
            raise StepConflict(
                f"fleet {fleet!r}: step {record.step} does not follow the last committed step {last}"
            )

    async def recorded_steps(self, fleet: str, newest: int = RECORDED_STEPS) -> list[RecordedStep]:
        """The recorded demand of a fleet, oldest first: at most the `newest` steps."""
        with _asking():
            rows = await self._client.lrange(_RECORDED.format(fleet=fleet), -newest, -1)
        return [_RECORDED_STEP.validate_json(row) for row in rows]

    async def newest_transitions(
        self, fleet: str, count: int, after: datetime | None = None
    ) -> list[Transition]:
        """The newest transitions of a fleet, at most `count`, oldest first.

        Of those due later than `after`, if given: the stream, which all fleets share, is read
        backwards and no further than that.
        """
        found: list[Transition] = []
        async for transition in self._backwards(_TRANSITIONS, Transition, fleet):
            if len(found) == count or (after is not None and transition.at <= after):
                break
            found.append(transition)
        return found[::-1]

    async def _backwards(self, stream: str, message: type[M], fleet: str) -> AsyncIterator[M]:
        """A fleet's messages in a stream, newest first, a page at a time."""
        end = "+"
        while True:
            with _asking():
                page: Any = await self._client.xrevrange(stream, max=end, count=PAGE)
            for _, fields in page:
                if fields.get(b"fleet") == fleet.encode():
                    found = _readable(message, fields.get(b"message", b""))
                    if found is not None:
                        yield found
            if len(page) < PAGE:
                return
            end = f"({page[-1][0].decode()}"

    # Transitions and ended trainings, through consumer groups

    async def open_group(self, group: str, log: Log[Any] = TRANSITIONS) -> None:
        """Make a consumer group that starts at the oldest message kept; idempotent."""
        with _asking():
            try:
                await self._client.xgroup_create(log.stream, group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read_group(
        self,
        group: str,
        consumer: str,
        count: int,
        block_ms: int,
        *,
        pending: bool = False,
        log: Log[Any] = TRANSITIONS,
    ) -> list[tuple[str, Any]]:
        """Messages for a consumer, with their ids: new ones, or its own not yet acknowledged.

        None is an entry that is no such message, or was trimmed before it was acknowledged. A group
        that went with Redis's data is made again.
        """
        position = "0" if pending else ">"
        with _asking():
            try:
                answer = await self._client.xreadgroup(
                    group, consumer, {log.stream: position}, count=count, block=block_ms
                )
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self.open_group(group, log)
                return []
        return [(id, _readable(log.message, content)) for _, id, content in _entries(answer)]

    async def acknowledge(
        self, group: str, ids: Sequence[str], log: Log[Any] = TRANSITIONS
    ) -> None:
        """Tell the group that these messages are done with."""
        if ids:
            with _asking():
                await self._client.xack(log.stream, group, *ids)

    # Latest state and its changes

    async def publish(self, feed: Feed[M], fleet: str, message: M) -> None:
        """Make a message its fleet's latest, and tell those who follow."""
        with _asking():
            await self._publish(
                keys=[feed.state, feed.changes],
                args=[fleet, message.model_dump_json(), CHANGES_LENGTH],
            )

    async def latest(self, feed: Feed[M]) -> dict[str, M]:
        """The latest message of every fleet."""
        with _asking():
            state: dict[Any, Any] = await self._client.hgetall(feed.state)
        messages = {k.decode(): _readable(feed.message, v) for k, v in state.items()}
        return {fleet: message for fleet, message in messages.items() if message is not None}

    async def newest_changes(self, feed: Feed[M], fleet: str, count: int | None = None) -> list[M]:
        """A fleet's changes that the stream still has, oldest first; the newest `count`, if given."""
        found: list[M] = []
        async for change in self._backwards(feed.changes, feed.message, fleet):
            if len(found) == count:
                break
            found.append(change)
        return found[::-1]

    async def _latest(self, feed: Feed[M], fleet: str) -> M | None:
        with _asking():
            content = await self._client.hget(feed.state, fleet)
        return None if content is None else feed.message.model_validate_json(content)

    async def follow(self, *feeds: Feed[Any]) -> AsyncIterator[Message]:
        """The latest message of every fleet in each feed, then every change, for ever.

        What can't be read is logged and left out. While Redis is away it waits; when Redis is
        back it starts again from the latest state.
        """
        by_stream = {feed.changes: feed for feed in feeds}
        away = False
        while True:
            try:
                positions: dict[Any, Any] = {
                    feed.changes: await self._end_of(feed.changes) for feed in feeds
                }
                for feed in feeds:
                    for message in (await self.latest(feed)).values():
                        yield message
                if away:
                    away = False
                    _log.info("redis_is_back")
                while True:
                    with _asking():
                        answer = await self._client.xread(
                            positions, count=FOLLOW_BATCH, block=FOLLOW_BLOCK_MS
                        )
                    for stream, id, content in _entries(answer):
                        positions[stream] = id
                        message = _readable(by_stream[stream].message, content)
                        if message is not None:
                            yield message
            except BusAway as error:
                if not away:
                    away = True
                    _log.warning("redis_is_away", error=str(error))
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _end_of(self, stream: str) -> str:
        with _asking():
            last: Any = await self._client.xrevrange(stream, count=1)
        return last[0][0].decode() if last else "0"

    # Supply

    async def record_supplies(self, supplies: Sequence[FleetSupply]) -> None:
        """Make these the newest supply of their fleets, in one round trip, for `SUPPLY_SECONDS`."""
        pipeline = self._client.pipeline(transaction=False)
        for supply in supplies:
            key = _SUPPLY.format(fleet=supply.fleet)
            pipeline.set(key, supply.model_dump_json(exclude_none=True), ex=SUPPLY_SECONDS)
        with _asking():
            await pipeline.execute()

    async def newest_supplies(self, fleets: Sequence[str]) -> dict[str, FleetSupply]:
        """The newest supply of those of these fleets that have one, in one round trip."""
        with _asking():
            found: Any = await self._client.mget([_SUPPLY.format(fleet=fleet) for fleet in fleets])
        supplies = (_readable(FleetSupply, content) for content in found if content is not None)
        return {supply.fleet: supply for supply in supplies if supply is not None}


class TrainingQueue:
    """The RQ queue of training jobs: at most one a fleet, queued or running. Not for asyncio."""

    def __init__(self, url: str) -> None:
        self.connection = redis.Redis.from_url(
            url, socket_connect_timeout=SOCKET_TIMEOUT_SECONDS, health_check_interval=30
        )
        self.queue = rq.Queue(
            TRAINING_QUEUE, connection=self.connection, serializer=JSONSerializer, is_async=True
        )

    def enqueue(self, job: TrainingJob, timeout_s: float) -> bool:
        """Queue a job unless its fleet has one queued or running; say whether it was queued.

        A job that has failed for good makes room for the next one.
        """
        job_id = f"train-{job.fleet}"
        with _away():
            try:
                before = self.queue.fetch_job(job_id)
                if before is not None and (before.is_failed or before.is_finished):
                    before.delete()
                self.queue.enqueue(
                    TRAINING_FUNCTION,
                    job.model_dump_json(),
                    job_id=job_id,
                    unique=True,
                    job_timeout=int(timeout_s),
                    result_ttl=0,
                    retry=rq.Retry(max=TRAINING_RETRIES, interval=[1, 10, 60]),
                )
            except (DuplicateJobError, NoSuchJobError):
                return False
        return True

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """For RQ's own calls on `connection`: raises `BusAway` when Redis does not answer."""
        with _away():
            yield

    def status(self, fleet: str) -> str | None:
        """RQ's status of the fleet's job, such as `queued` or `failed`, or None without one."""
        with _away():
            job = self.queue.fetch_job(f"train-{fleet}")
            return None if job is None else str(job.get_status().value)


def wait_for_redis(url: str, seconds: float) -> None:
    """Return when Redis answers; raises `BusAway` after `seconds`."""
    client = redis.Redis.from_url(url, socket_connect_timeout=1)
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > deadline:
                raise BusAway(f"Redis does not answer within {seconds:g} s: {error}") from error
            time.sleep(0.05)
        finally:
            client.close()


@contextmanager
def _asking() -> Iterator[None]:
    """`_away`, for asyncio."""
    with _away():
        yield
    # `asyncio.wait_for` of Python 3.11, which redis-py sends with, may swallow a cancellation:
    # the task would go on for ever, and whoever waits for its end with it.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def _away() -> Iterator[None]:
    """Redis's ways of not serving, as one error."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, OSError) as error:
        raise BusAway(f"Redis does not answer: {error}; check AUTOPILOT_REDIS_URL") from error
    except redis.ResponseError as error:
        # Redis 6 says it within a script's error, Redis 7 with an error code of its own.
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
            raise BusAway("Redis is out of memory: raise its maxmemory") from error
        raise


def _readable(message: type[M], content: bytes) -> M | None:
    """A message, or None for what is none: one bad entry must not stop those who read."""
    try:
        return message.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"]
        _log.error("message_unreadable", kind=message.__name__, reason=reason)
        return None


def _entries(answer: Any) -> Iterator[tuple[str, str, bytes]]:
    """Stream, id and message of what XREAD and XREADGROUP return, in RESP2 and RESP3."""
    streams = answer.items() if isinstance(answer, dict) else answer or ()
    for stream, batches in streams:
        # RESP3 wraps a stream's entries once more.
        entries = (
            batches[0]
            if batches and batches[0] and isinstance(batches[0][0], list | tuple)
            else batches
        )
        for id, fields in entries:
            # An entry that was trimmed while a group held it has no fields.
            yield stream.decode(), id.decode(), fields.get(b"message", b"")
