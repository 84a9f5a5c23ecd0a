"""The metrics service in this process, steps for it, and what it tells Prometheus."""

from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.metrics.app import create_app
from services.metrics.fleet_metrics import FleetMetrics
from services.metrics.workload import Workload
from shared.bus import Bus
from shared.settings import Fleets, FleetSettings
from tests.conftest import a_step
from tests.eventually import eventually_async

START = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
"""A real time, since the process has a real clock and CloudWatch takes nothing old."""
FLEETS = Fleets({name: FleetSettings() for name in ("default", "eu")})


async def commit(bus, step, fleet="default", **changes):
    """Commit a step as the environment does; return its transition."""
    numbers = {"target": 50.0 + step, "allocation": 30.0, "reward": -1.5 * step, **changes}
    at = START + timedelta(seconds=65 * step)
    made = a_step(step, fleet, 40.0 + step, at, **numbers)
    asked = made.decision.model_copy(update={"target": made.transition.target + 0.4})
    await bus.commit_step(*made._replace(decision=asked))
    return made.transition


def sidecar(url, put_to_cloudwatch=None, registry=None, started_at=START):
    """The app as its entry point wires it."""
    registry = registry or CollectorRegistry()
    return create_app(
        bus=Bus.connect(url),
        registry=registry,
        fleet_metrics=FleetMetrics(registry, FLEETS, started_at),
        workload=Workload(registry, len(FLEETS.names)),
        put_to_cloudwatch=put_to_cloudwatch,
    )


async def scrape(client):
    """Samples by name and labels: ``{"autopilot_demand{fleet=eu}": 42.0}``."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


async def until(client, expected):
    """Scrape until these samples are there; returns all of them."""
    return await eventually_async(
        lambda: scrape(client),
        f"the metrics {expected}",
        holds=lambda samples: {name: samples.get(name) for name in expected} == expected,
    )
