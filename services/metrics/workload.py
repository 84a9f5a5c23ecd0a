"""The workload of our own workers, by which an autoscaler can set their number."""

import asyncio
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from shared.bus import Bus
from shared.errors import BusAway
from shared.resilience import Outage

LOOK_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class Workload:
    """A Prometheus collector of the numbers of fleets and training jobs.

    While Redis is unavailable the number of jobs is left out: an autoscaler that reads 0 would
    remove the trainers, and one that reads nothing changes nothing.
    """

    def __init__(self, registry: CollectorRegistry, fleets: int) -> None:
        self._fleets = fleets
        self._training_jobs: int | None = None
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("autopilot_fleets", "Fleets configured", value=self._fleets)
        if self._training_jobs is not None:
            yield GaugeMetricFamily(
                "autopilot_training_jobs",
                "Training jobs that are queued, running or wait for a retry",
                value=self._training_jobs,
            )

    async def follow(self, bus: Bus) -> None:
        """Read the number of jobs every `LOOK_SECONDS`, until cancelled."""
        outage = Outage()
        while True:
            try:
                self._training_jobs = await bus.training_jobs()
            except BusAway as error:
                self._training_jobs = None
                outage.begin(error)
            else:
                outage.end()
            await asyncio.sleep(LOOK_SECONDS)
