"""The metrics sidecar: consumes transitions, decisions and trainings, and exports metrics."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from services.metrics.consumer import BATCH, Consumer, Handle
from services.metrics.fleet_metrics import FleetMetrics
from services.metrics.leader import LeaderLease
from services.metrics.workload import Workload
from shared.bus import (
    DECISIONS,
    ENDED_TRAININGS,
    MODES,
    TRAININGS,
    TRANSITIONS,
    Bus,
    Log,
    reason_of,
)
from shared.http.access import Access
from shared.http.app import HttpService
from shared.http.health import add_health_routes
from shared.messages import Decision, FleetMode, Message, TrainingOutcome
from shared.resilience import cancelled, supervised

PROMETHEUS_GROUP = "metrics-prometheus"
CLOUDWATCH_GROUP = "metrics-cloudwatch"
"""A separate group, so that Prometheus does not wait while CloudWatch is unavailable."""
ONE_AT_A_TIME = 1
"""Batch size for counters, which can't be undone: in a larger batch, the steps before a bad one
would be counted twice."""
RESTART_SECONDS = 5.0

_log = structlog.get_logger(__name__)


def create_app(
    *,
    bus: Bus,
    registry: CollectorRegistry,
    fleet_metrics: FleetMetrics,
    workload: Workload,
    put_to_cloudwatch: Handle | None,
    access: Access | None = None,
) -> HttpService:
    """The sidecar on a bus, which it closes at shutdown.

    `put_to_cloudwatch` is None where AWS is not configured.
    """
    unreadable = Counter(
        "autopilot_unreadable_transitions",
        "Stream entries that are not a message",
        ("group",),
        registry=registry,
    )
    dead_letters = Counter(
        "autopilot_dead_letters",
        "Stream entries that could not be processed; `autopilot dead-letters` lists them",
        ("group",),
        registry=registry,
    )

    def consumer(
        group: str, handle: Handle, log: Log[Any] = TRANSITIONS, at_once: int = BATCH
    ) -> Callable[[], Awaitable[None]]:
        counters = unreadable.labels(group), dead_letters.labels(group)
        return Consumer(bus, group, handle, *counters, log, at_once).run

    alone = {
        "prometheus": consumer(
            PROMETHEUS_GROUP, fleet_metrics.record_transitions, at_once=ONE_AT_A_TIME
        ),
        "decisions_and_trainings": lambda: _follow(bus, fleet_metrics),
    }
    if put_to_cloudwatch is not None:
        alone["cloudwatch"] = consumer(CLOUDWATCH_GROUP, put_to_cloudwatch)
        alone["cloudwatch_trainings"] = consumer(
            CLOUDWATCH_GROUP, put_to_cloudwatch, ENDED_TRAININGS
        )

    leader = LeaderLease(
        bus,
        {name: partial(supervised, name, run, RESTART_SECONDS) for name, run in alone.items()},
        fleet_metrics.forget,
    )
    always: dict[str, Callable[[], Awaitable[None]]] = {
        "leader_lease": leader.run,
        "workload": partial(workload.follow, bus),
    }

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(supervised(name, run, RESTART_SECONDS))
            for name, run in always.items()
        ]
        yield
        await cancelled(*tasks)
        await leader.end()
        await bus.close()

    app = HttpService(
        title="gameserver-autopilot metrics",
        description="Metrics of the fleets, for Prometheus.",
        lifespan=lifespan,
        registry=registry,
        access=access or Access(),
    )
    add_health_routes(app, bus.ping, registry)
    return app


async def _follow(bus: Bus, fleet_metrics: FleetMetrics) -> None:
    async for change in bus.follow(MODES, DECISIONS, TRAININGS):
        try:
            _record(change, fleet_metrics)
        except Exception as error:  # noqa: BLE001 - an error in one fleet must not stop the others
            kind = type(change).__name__
            _log.error("change_not_recorded", kind=kind, reason=reason_of(error))


def _record(change: Message, fleet_metrics: FleetMetrics) -> None:
    if isinstance(change, Decision):
        fleet_metrics.record_decision(change)
    elif isinstance(change, TrainingOutcome):
        fleet_metrics.record_training(change)
    elif isinstance(change, FleetMode):
        fleet_metrics.record_mode(change)
