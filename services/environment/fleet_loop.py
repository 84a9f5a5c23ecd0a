"""Stepping one fleet: an asyncio task of its own, on its own clock."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import numpy as np
import structlog

from services.environment.decision import encoder_of
from services.environment.demand_source import DemandSource, Reading
from services.environment.history import (
    MARGIN_STEPS,
    empty_history,
    history_of,
    within_reach,
)
from services.environment.step import Commit, Due, StepInput, next_due, step_fleet
from services.environment.supply import Supplies, newer
from shared.bus import Bus, Lease, TrainingQueue
from shared.core.guards import GuardName
from shared.errors import BusAway, DemandMissing, LeaseLost, StepConflict
from shared.explanation import explained
from shared.messages import FleetRecord, FleetSupply, TrainingJob
from shared.policies.champions import Champions
from shared.resilience import Outage, until_back
from shared.settings import FleetSettings

RETRIES_PER_BATCH = 10
"""Attempts to queue a training job, per batch of steps, while the last job is still running."""

FIRST_DEMAND_SECONDS = 5.0
"""Period in which a fleet without any demand so far reads it, if shorter than a step."""
FIRST_READS_PER_SECOND = 100
"""Of all such fleets, whose steps keep that spacing: with thousands the period is longer."""
TRAINING_OVERHEAD_SECONDS = 300.0
"""Time that a training job may take beyond its budget: start of Ray, export, checks."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class FleetLoop:
    """Steps one fleet."""

    def __init__(
        self,
        fleet: str,
        settings: FleetSettings,
        phase: float,
        source: DemandSource,
        champions: Champions,
        bus: Bus,
        queue: TrainingQueue,
        clock: Callable[[], datetime],
        seed: int = 0,
        supplies: Supplies | None = None,
        fleets: int = 1,
    ) -> None:
        """`phase`, 0 to 1, differs among the `fleets` (their number), so that steps spread out."""
        self.fleet = fleet
        self._settings = settings
        self._parameters = settings.parameters
        self._guards = settings.guards
        self._phase = phase
        self._first_look_s = min(
            settings.learning_freq, max(FIRST_DEMAND_SECONDS, fleets / FIRST_READS_PER_SECOND)
        )
        self._source = source
        self._champions = champions
        self._bus = bus
        self._queue = queue
        self._clock = clock
        self._seed = seed
        self._supplies = supplies
        self._record: FleetRecord | None = None
        self._history = empty_history(settings.learning_freq)
        self._encoder = encoder_of(self._parameters.observation_fields, self._parameters.lead_steps)
        self._silence = Outage("demand_missing", "demand_is_back", fleet=fleet)
        self._warned_of_lead_time = False
        self._settled_by: GuardName | None = None
        self._stepping = asyncio.Lock()
        self._lease: Lease | None = None

    @property
    def step_seconds(self) -> float:
        """From step to step."""
        return self._settings.learning_freq

    async def resume(self, lease: Lease) -> None:
        """Take over the fleet from its last committed step."""
        self._lease = lease
        await self._resume()
        if self._record is not None:
            _log.info("fleet_resumed", fleet=self.fleet, step=self._record.step)

    async def run(self) -> None:
        """Step the fleet that was resumed, until cancelled or the lease is lost."""
        last = None if self._record is None else self._record.due_at
        while True:
            due = next_due(last, self._period(), self._phase, self._clock())
            await asyncio.sleep((due.at - self._clock()).total_seconds())
            async with self._stepping:
                try:
                    await self._step(due)
                except LeaseLost as lost:
                    _log.warning("lease_lost", fleet=self.fleet, reason=str(lost))
                    return
                except Exception:  # noqa: BLE001 - an error in one fleet must not stop the others
                    _log.exception("step_failed", fleet=self.fleet)
            last = due.at if self._record is None else self._record.due_at

    def _period(self) -> float:
        if self._record is None:
            return self._first_look_s
        return self._settings.learning_freq

    async def finish(self) -> None:
        """Wait until the present step is committed, and start no other."""
        await self._stepping.acquire()

    async def _step(self, due: Due) -> None:
        if due.gap_steps and self._record is not None:
            _log.warning("steps_missed", fleet=self.fleet, gap_steps=due.gap_steps)
        reading = await self._read_demand()
        supply = await self._supply(reading)
        commit = step_fleet(
            StepInput(
                fleet=self.fleet,
                record=self._record,
                policy=self._champions.policy(self.fleet),
                parameters=self._parameters,
                due=due,
                now=self._clock(),
                demand=None if reading is None else reading.demand,
                history=self._history,
                guards=self._guards,
                step_seconds=self._settings.learning_freq,
                supply=supply,
                tickets_waiting=None if reading is None else reading.tickets_waiting,
                draw=self._draw(),
            )
        )
        if commit is None:
            return
        try:
            await self._until_bus_back(lambda: self._commit(commit))
        except StepConflict as conflict:
            await self._resume()
            if self._record != commit.record:
                _log.warning("step_lost", fleet=self.fleet, reason=str(conflict))
            return  # equal: the commit succeeded, and only its response was lost
        self._history = within_reach(commit.history, self._encoder)
        self._warn_of_lead_time(commit)
        self._log_why(commit)
        self._record = await self._queue_training(commit.record)

    def _draw(self) -> float | None:
        """A standard normal number for exploration, the same when a step is repeated.

        None where the fleet learns on replay, which needs no exploration.
        """
        if self._settings.learning != "on_policy":
            return None
        step = 0 if self._record is None else self._record.step
        rng = np.random.default_rng([self._seed, step, *self.fleet.encode()])
        return float(rng.standard_normal())

    async def _resume(self) -> None:
        """Read the last committed step, and the history that the fleet's observation needs."""
        record = await self._until_bus_back(lambda: self._bus.fleet_record(self.fleet))
        self._record = None if record is None else self._for_present_lead(record)
        if not self._sees_history:
            return
        rows = self._encoder.reach_seconds / self._settings.learning_freq
        newest = int(rows) + self._encoder.reach_rows + MARGIN_STEPS
        steps = await self._until_bus_back(lambda: self._bus.recorded_steps(self.fleet, newest))
        history = history_of(steps, self._parameters, self._settings.learning_freq)
        self._history = within_reach(history, self._encoder)

    def _for_present_lead(self, record: FleetRecord) -> FleetRecord:
        """The record; if HISTORY_LEN has changed, the next step queues a training job.

        Recorded demand can be trained on for any lead time; live transitions can't.
        """
        if len(record.demands) == self._parameters.history_len:
            return record
        _log.warning(
            "history_len_changed",
            fleet=self.fleet,
            before=len(record.demands),
            now=self._parameters.history_len,
            kept="recorded demand, the fleet's state and its measured lead time",
        )
        if self._settings.learning != "replay":
            return record
        soon = max(record.untrained_steps, self._settings.train_batch_size - 1)
        return record.model_copy(update={"untrained_steps": soon})

    @property
    def _sees_history(self) -> bool:
        return self._parameters.observation != "notebook"

    async def _commit(self, commit: Commit) -> None:
        await self._bus.commit_step(
            commit.record,
            commit.recorded,
            commit.transition,
            commit.decision,
            self._lease,
            commit.explanation,
        )
        _log.debug(
            "fleet_stepped",
            fleet=self.fleet,
            step=commit.record.step,
            demand=commit.transition.reported_demand,
            allocation=commit.transition.allocation,
            target=commit.decision.target,
            policy_version=commit.decision.policy_version,
            guards=commit.decision.guards,
        )

    def _log_why(self, commit: Commit) -> None:
        """Log why, as `GET /explain` tells it, where another guard than before settles the number.

        Limits apart, which a target may touch at every step; at debug each decision is logged. What
        is to be expected is left out: it takes the fleet's newest steps, which are in Redis.
        """
        settled_by = next(iter(commit.decision.guards), None)
        before, self._settled_by = self._settled_by, settled_by
        news = settled_by != before and settled_by not in (None, "min_servers", "max_servers")
        level = logging.INFO if news else logging.DEBUG
        if _log.is_enabled_for(level):
            why = explained(commit.explanation, (), self._settings)
            shown = why.model_dump(mode="json", exclude={"expected"})
            _log.log(level, "decision_explained", **shown)

    async def _read_demand(self) -> Reading | None:
        number = 1 if self._record is None else self._record.step + 1
        try:
            reading = await self._source.read(number)
        except DemandMissing as missing:
            self._silence.begin(missing, holding=self._record is not None)
            return None
        self._silence.end(demand=reading.demand)
        return reading

    async def _supply(self, reading: Reading | None) -> FleetSupply | None:
        """The newer of the matchmaker's and the fleet's controller's reports."""
        reported = None
        if reading is not None and reading.supply is not None:
            at = reading.observed_at or self._clock()
            reported = FleetSupply(fleet=self.fleet, at=at, supply=reading.supply)
        controlled = None if self._supplies is None else await self._supplies.newest(self.fleet)
        return newer(reported, controlled)

    def _warn_of_lead_time(self, commit: Commit) -> None:
        """Warn once: a policy that plans for a wrong lead time can't be right."""
        times, lead = commit.transition.lead_times, commit.record.lead_time
        if self._warned_of_lead_time or times is None or lead is None:
            return
        if lead.differs_from(times.assumed_s):
            self._warned_of_lead_time = True
            steps = max(2, math.ceil(times.measured_s / self._settings.learning_freq))
            _log.warning(
                "lead_time_differs",
                fleet=self.fleet,
                measured_s=round(times.measured_s),
                assumed_s=round(times.assumed_s),
                advice="the measured lead time differs from the assumed one: set "
                f"AUTOPILOT_HISTORY_LEN={steps} for this fleet",
            )

    async def _queue_training(self, record: FleetRecord) -> FleetRecord:
        """Queue a job after every `train_batch_size` new transitions, and reset their count."""
        batch = self._settings.train_batch_size
        over = record.untrained_steps - batch
        if over < 0 or over % max(1, batch // RETRIES_PER_BATCH):
            return record
        job = TrainingJob(fleet=self.fleet, queued_at=self._clock(), up_to_step=record.step)
        timeout_s = self._settings.time_total_s + TRAINING_OVERHEAD_SECONDS
        try:
            queued = await asyncio.to_thread(self._queue.enqueue, job, timeout_s)
        except BusAway as away:
            _log.warning("training_not_queued", fleet=self.fleet, reason=str(away))
            return record
        if not queued:
            return record
        _log.info("training_queued", fleet=self.fleet, up_to_step=record.step)
        return record.model_copy(update={"untrained_steps": 0})

    async def _until_bus_back(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until Redis is available: a step is never dropped because of an outage."""
        return await until_back(call, Outage(fleet=self.fleet))
