"""Prometheus and the dashboard, as the profile `monitoring` starts them; Grafana can't be here."""

import json

import pytest

from tests.e2e.conftest import EVERYTHING
from tests.e2e.containers import ROOT, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module")
def prometheus(platform):
    """Asks Prometheus's API."""
    platform.compose(*EVERYTHING, "up", "--detach", "--no-recreate", "prometheus")
    address = platform.address("PROMETHEUS_PORT")
    until(
        lambda: "ready" if platform.up(f"{address}/-/ready") else None,
        "Prometheus ready",
    )

    def ask(what: str, **parameters: str):
        answer = platform.http.get(f"{address}/api/v1/{what}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    yield ask
    platform.compose(*EVERYTHING, "rm", "--stop", "--force", "prometheus")


def test_everything_is_scraped(prometheus):
    def all_up():
        targets = prometheus("targets")["activeTargets"]
        return targets if {target["health"] for target in targets} == {"up"} else None

    assert len(until(all_up, "every target up")) == 3


def test_every_panel_of_the_dashboard_shows_something(prometheus, platform):
    dashboard = json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text())
    queries = [
        target["expr"].replace("$fleet", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    assert len(queries) > len(dashboard["panels"])

    def shown(query):
        # The sine is played without the servers that are really up.
        platform.report(50.0, supply={"allocated": 40, "ready": 10})
        return prometheus("query", query=query)["result"] or None

    for query in queries:
        until(lambda query=query: shown(query), query)


def test_prometheus_is_confined_too(prometheus, platform):
    container = platform.container("prometheus")
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    assert platform.execute("prometheus", "id", "-u").strip() != "0"
