"""`python -m services.metrics`: wiring."""

from prometheus_client import CollectorRegistry

from services.metrics.app import create_app
from services.metrics.consumer import Handle
from services.metrics.fleet_metrics import FleetMetrics
from services.metrics.workload import Workload
from shared.bus import Bus
from shared.entry import run_service
from shared.http.access import access_of
from shared.http.server import serve
from shared.messages import utc_now
from shared.settings import Fleets, Settings, aws_region


def main(settings: Settings, fleets: Fleets) -> None:
    registry = CollectorRegistry()
    app = create_app(
        bus=Bus.connect(settings.redis_url),
        registry=registry,
        fleet_metrics=FleetMetrics(registry, fleets, utc_now()),
        workload=Workload(registry, len(fleets.names)),
        access=access_of(settings),
        put_to_cloudwatch=_cloudwatch(settings.cloudwatch_namespace, registry),
    )
    serve(app, settings.host, settings.metrics_port)


def _cloudwatch(namespace: str, registry: CollectorRegistry) -> Handle | None:
    """Puts to CloudWatch, or None where AWS's standard variables don't name a place for it."""
    region = aws_region("cloudwatch")
    if region is None:
        return None
    from services.metrics.cloudwatch import CloudWatch, connect

    client = connect(region)
    return CloudWatch(client, namespace, registry, utc_now).put


if __name__ == "__main__":
    run_service("metrics", main)
