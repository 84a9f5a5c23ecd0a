"""Steps of fleets: each is committed atomically, by the worker that holds the fleet."""

from datetime import datetime
from typing import Annotated, Any

import redis.asyncio
import structlog
from pydantic import TypeAdapter, ValidationError

from shared.bus import keys
from shared.bus.connection import bus_errors_async
from shared.bus.entries import readable
from shared.bus.feeds import Feeds
from shared.bus.keys import DECISIONS
from shared.bus.leases import Lease
from shared.errors import LeaseLost, StepConflict
from shared.messages import (
    Decision,
    Explanation,
    FleetRecord,
    RecordedStep,
    Transition,
    of_any_release,
)

_COMMIT_STEP = """
-- KEYS: fleet, recorded, transitions, decisions, decisions' changes, leases, explanations
-- ARGV: fleet, steps committed before, state, recorded step, transition, decision, then the lengths, lease,
--   explanation
if ARGV[10] ~= '' and redis.call('HGET', KEYS[6], ARGV[1]) ~= ARGV[10] then return -2 end
local before = redis.call('HGET', KEYS[1], 'step') or '0'
if before ~= ARGV[2] then return tonumber(before) end
redis.call('HSET', KEYS[1], 'step', tonumber(ARGV[2]) + 1, 'state', ARGV[3])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[7]), -1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'fleet', ARGV[1], 'message', ARGV[5])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[6])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[9], '*', 'fleet', ARGV[1], 'message', ARGV[6])
if ARGV[11] ~= '' then redis.call('HSET', KEYS[7], ARGV[1], ARGV[11]) end
return -1
"""

_log = structlog.get_logger(__name__)

_RECORDED_STEP: TypeAdapter[RecordedStep] = TypeAdapter(
    Annotated[RecordedStep, of_any_release(RecordedStep)]
)
_RECORDED_STEPS: TypeAdapter[list[RecordedStep]] = TypeAdapter(list[RecordedStep])


class Steps(Feeds):
    """A fleet's state, its recorded demand and its transitions."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__(client)
        self._commit_step = client.register_script(_COMMIT_STEP)
        self._logged: set[str] = set()
        """Fleets with unreadable recorded steps, which are logged once."""

    async def fleet_record(self, fleet: str) -> FleetRecord | None:
        """A fleet's state after its last committed step, or None before the first."""
        with bus_errors_async():
            state = await self._client.hget(keys.FLEET.format(fleet=fleet), "state")
        return None if state is None else FleetRecord.model_validate_json(state)

    async def commit_step(
        self,
        record: FleetRecord,
        recorded: RecordedStep,
        transition: Transition,
        decision: Decision,
        lease: Lease | None = None,
        explanation: Explanation | None = None,
    ) -> None:
        """Commit a step atomically: state, recorded demand, transition, decision, explanation.

        Changes nothing and raises `LeaseLost` if a `lease` is given that is not the fleet's, and
        `StepConflict` unless it is the step after the fleet's last.
        """
        fleet = record.fleet
        names = [
            keys.FLEET.format(fleet=fleet),
            keys.RECORDED.format(fleet=fleet),
            keys.TRANSITIONS_STREAM,
            DECISIONS.state,
            DECISIONS.changes,
            keys.LEASES,
            keys.EXPLANATIONS,
        ]
        arguments: list[Any] = [
            fleet,
            record.step - 1,
            record.model_dump_json(),
            _RECORDED_STEP.dump_json(recorded),
            transition.model_dump_json(),
            decision.model_dump_json(),
            keys.RECORDED_STEPS,
            keys.TRANSITIONS_LENGTH,
            keys.CHANGES_LENGTH,
            lease or "",
            "" if explanation is None else explanation.model_dump_json(),
        ]
        with bus_errors_async():
            last = await self._commit_step(keys=names, args=arguments)
        if last == -2:
            raise LeaseLost(f"fleet {fleet!r}: another worker holds it now")
        if last != -1:
            raise StepConflict(
                f"fleet {fleet!r}: step {record.step} does not follow the last committed step {last}"
            )

    async def explanation(self, fleet: str) -> Explanation | None:
        """How the fleet's newest decision came about, or None before the first."""
        with bus_errors_async():
            content: Any = await self._client.hget(keys.EXPLANATIONS, fleet)
        return None if content is None else readable(Explanation, content)

    async def recorded_steps(
        self, fleet: str, newest: int = keys.RECORDED_STEPS
    ) -> list[RecordedStep]:
        """The recorded demand of a fleet, oldest first: at most the `newest` steps."""
        with bus_errors_async():
            rows: Any = await self._client.lrange(keys.RECORDED.format(fleet=fleet), -newest, -1)
        # Parsed at once: a worker may take over thousands of fleets with thousands of rows.
        try:
            return _RECORDED_STEPS.validate_json(b"[" + b",".join(rows) + b"]")
        except ValidationError:
            return self._readable_rows(fleet, rows)

    def _readable_rows(self, fleet: str, rows: list[bytes]) -> list[RecordedStep]:
        """The readable rows; unreadable ones count as gaps, so that no history spans them."""
        steps: list[RecordedStep] = []
        left_out, since = 0, 0
        for row in rows:
            try:
                step = _RECORDED_STEP.validate_json(row)
            except ValidationError:
                left_out += 1
                since += 1
            else:
                steps.append(step._replace(gap_steps=step.gap_steps + since))
                since = 0
        if left_out and fleet not in self._logged:
            self._logged.add(fleet)
            _log.error("recorded_steps_unreadable", fleet=fleet, left_out=left_out, of=len(rows))
        return steps

    async def newest_transitions(
        self, fleet: str, count: int, after: datetime | None = None
    ) -> list[Transition]:
        """The newest transitions of a fleet, at most `count`, oldest first.

        Only those due later than `after`, if given. The stream, which all fleets share, is read
        backwards, no further than needed.
        """
        found: list[Transition] = []
        async for transition in self._backwards(keys.TRANSITIONS_STREAM, Transition, fleet):
            if len(found) == count or (after is not None and transition.at <= after):
                break
            found.append(transition)
        return found[::-1]
