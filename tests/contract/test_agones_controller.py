"""Agones' controller and a real prediction process, by the page of YAML that users apply."""

import asyncio
import base64
import contextlib
import http.server
import json
import socket
import string
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.prediction.agones import FLEET_ANNOTATION
from shared.bus import DECISIONS, Bus
from shared.messages import Decision, utc_now
from tests.agones_controller import (
    AgonesController,
    AgonesFleet,
    Applied,
    ControllerPanic,
    PolicyFailed,
    url_of,
)
from tests.certificates import Authority, a_certificate
from tests.conftest import a_decision
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy/agones/fleetautoscaler.yaml"
TOKEN = "h00k"
SETTINGS = {"agones_token": TOKEN, "api_token": "s3cret", "decision_ttl": 3600, "demand_ttl": 600}
Decide = Callable[..., None]


def page(**values: str) -> dict[str, Any]:
    """The FleetAutoscaler of the page, with values for what it leaves open."""
    given = {"AGONES_TOKEN": TOKEN, "CA_BUNDLE": "Q0E=", **values}
    found: dict[str, Any] = yaml.safe_load(string.Template(PAGE.read_text()).safe_substitute(given))
    return found


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def autoscaler(authority: Authority) -> Callable[[str], dict[str, Any]]:
    """The page's FleetAutoscaler, for a prediction service at another address."""

    def at(url: str) -> dict[str, Any]:
        made = page(CA_BUNDLE=base64.b64encode(authority.pem.encode()).decode())
        webhook = made["spec"]["policy"]["chain"][0]["webhook"]
        service = "prediction.gameserver-autopilot.svc:8000"
        assert f"@{service}/" in webhook["url"]
        webhook["url"] = webhook["url"].replace(service, url.removeprefix("https://"))
        return made

    return at


@pytest.fixture
def serve(start, authority, tmp_path) -> Callable[..., Any]:
    """Starts the prediction service over HTTPS; its process and its address."""
    certificate, key = a_certificate(tmp_path, authority)

    def serve(**settings: Any) -> Any:
        files = {"tls_cert_file": certificate, "tls_key_file": key}
        return start("prediction", trusting=authority.trusting(), **SETTINGS, **files, **settings)

    return serve


@pytest.fixture
def decide(redis_url, authority) -> Decide:
    """The environment: publishes a decision, and returns when a service at `url` tells it."""

    def decide(url: str, target: float, age_s: float = 0.0, **changes: Any) -> None:
        decision = a_decision(
            target=target,
            curr_demand=1,
            decided_at=utc_now() - timedelta(seconds=age_s),
            **changes,
        )
        asyncio.run(_published(redis_url, decision))
        expected = target, changes.get("fallback")
        eventually(lambda: told(url), f"{target} are told", holds=lambda it: it == expected)

    def told(url: str) -> Any:
        headers = {"Authorization": "Bearer s3cret"}
        verify = authority.trusting()
        answer = httpx.get(f"{url}/prediction", headers=headers, verify=verify).json()
        found = answer.get("Prediction", {}).get("num_of_gameservers")
        return found, answer.get("fallback")

    return decide


async def _published(redis_url: str, decision: Decision) -> None:
    bus = Bus.connect(redis_url)
    await bus.publish(DECISIONS, decision.fleet, decision)
    await bus.close()


def test_the_page_falls_back_within_the_limits_of_the_fleet():
    webhook, buffer = page()["spec"]["policy"]["chain"]
    assert (webhook["type"], buffer["type"]) == ("Webhook", "Buffer")
    assert 0 < buffer["buffer"]["bufferSize"] <= buffer["buffer"]["minReplicas"]


def test_a_day_of_a_fleet(serve, decide, autoscaler):
    """Up, held on the way up, down, allocated, silent, back, restarted."""
    process, url = serve()
    fleet = AgonesFleet()
    agones = AgonesController(autoscaler(url), fleet)

    assert agones.sync() == Applied("buffer", 10), "nothing is known yet"

    decide(url, 42)
    assert agones.sync() == Applied("autopilot", 42)
    fleet.settle(starting=25)
    assert agones.sync() == Applied("autopilot", 42), "held: not what is up by now"
    decide(url, 43, fallback="stale_demand")
    assert agones.sync() == Applied("autopilot", 43), "held while the demand counts"
    fleet.settle()

    decide(url, 30)
    fleet.allocate(36)
    assert agones.sync() == Applied("autopilot", 36), "not below what is allocated"
    fleet.allocate(20)
    assert agones.sync() == Applied("autopilot", 30)
    fleet.settle()
    fleet.allocate(26)

    decide(url, 31, age_s=601)
    decide(url, 32, fallback="stale_demand")
    assert agones.sync() == Applied("buffer", 31), "26 allocated and 5 more"
    decide(url, 33)
    assert agones.sync() == Applied("autopilot", 33)

    process.terminate()
    process.wait()
    assert agones.sync() == Applied("buffer", 31)
    port = httpx.URL(url).port
    process, url = serve(port=port)
    decide(url, 34)
    assert agones.sync() == Applied("autopilot", 34)
    assert [error.partition(" from")[0] for error in agones.errors] == [
        "bad status code 503",
        "bad status code 503",
        agones.errors[2],
    ]
    assert "ConnectError" in agones.errors[2]


def test_whose_fleet_it_is(serve, decide, autoscaler):
    """By query, by name, by path and by annotation; what is unknown is the buffer's business."""
    _, url = serve()
    decide(url, 42)
    by_query = autoscaler(url)
    webhook = by_query["spec"]["policy"]["chain"][0]["webhook"]
    address = webhook["url"].partition("?")[0]

    def applied(fleet: AgonesFleet, url: str = address, *, metadata: bool = False) -> str:
        webhook["url"] = url
        return AgonesController(by_query, fleet, metadata=metadata).sync().by

    annotated = AgonesFleet("eu.7", annotations={FLEET_ANNOTATION: "default"})
    assert applied(AgonesFleet("any"), f"{address}?fleet=default") == "autopilot"
    assert applied(AgonesFleet("any"), f"{address}/default") == "autopilot"
    assert applied(AgonesFleet("default")) == "autopilot"
    assert applied(annotated, metadata=True) == "autopilot"
    assert applied(annotated, metadata=False) == "buffer"
    assert applied(AgonesFleet("mars")) == "buffer"
    assert applied(AgonesFleet("default"), f"{address}?fleet=mars") == "buffer"


def test_a_service_has_its_fleet_in_the_path():
    """As the README shows it; Agones escapes what would be a query."""
    fences = (ROOT / "deploy/agones/README.md").read_text().split("```")[1::2]
    shown = next(fence for fence in fences if fence.startswith("yaml"))
    webhook = yaml.safe_load(shown.removeprefix("yaml"))["webhook"]
    address = "http://prediction.gameserver-autopilot.svc:8000/agones/scale"
    assert url_of(webhook) == f"{address}/default"
    webhook["service"]["path"] = "/agones/scale?fleet=default"
    assert url_of(webhook) == f"{address}%3Ffleet%3Ddefault"


@pytest.mark.parametrize("who", ["agones:guessed@", ""])
def test_without_the_token_the_buffer_decides(serve, decide, autoscaler, who):
    _, url = serve()
    decide(url, 42)
    manifest = autoscaler(url)
    webhook = manifest["spec"]["policy"]["chain"][0]["webhook"]
    webhook["url"] = webhook["url"].replace(f"agones:{TOKEN}@", who)
    agones = AgonesController(manifest, AgonesFleet())
    assert agones.sync().by == "buffer"
    assert "bad status code 401" in agones.errors[0]


def test_a_certificate_of_another_authority_is_not_trusted(serve, decide, autoscaler):
    _, url = serve()
    decide(url, 42)
    manifest = autoscaler(url)
    other = base64.b64encode(Authority().pem.encode()).decode()
    manifest["spec"]["policy"]["chain"][0]["webhook"]["caBundle"] = other
    agones = AgonesController(manifest, AgonesFleet())
    assert agones.sync().by == "buffer"
    assert "CERTIFICATE_VERIFY_FAILED" in agones.errors[0]


class TestTheDouble:
    """That it does what Agones does with answers that ours never gives."""

    @pytest.fixture
    def answering(self) -> Iterator[Callable[[int, bytes], AgonesController]]:
        """A controller of a webhook that always gives this answer."""
        with contextlib.ExitStack() as stack:

            def controller(status: int, body: bytes, kind: str = "Chain") -> AgonesController:
                class Webhook(http.server.BaseHTTPRequestHandler):
                    def do_POST(self):
                        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                        uid = review["request"]["uid"].encode()
                        self.send_response(status)
                        self.end_headers()
                        self.wfile.write(body.replace(b"UID", uid))

                    def log_message(self, *_):
                        pass

                server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Webhook))
                thread = threading.Thread(target=server.serve_forever, args=(0.01,))
                thread.start()
                stack.callback(thread.join)
                stack.callback(server.shutdown)
                return webhook_at(f"http://127.0.0.1:{server.server_port}/scale", kind)

            yield controller

    @pytest.mark.parametrize("body", [b"{}", b'{"request": {}}', b'{"response": null}'])
    def test_without_a_response_it_panics(self, answering, body):
        with pytest.raises(ControllerPanic):
            answering(200, body).sync()

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (503, b'{"response": {"uid": "UID", "scale": true, "replicas": 7}}'),
            (201, b'{"response": {"uid": "UID", "scale": true, "replicas": 7}}'),
            (200, b"not JSON"),
            (200, b"[]"),
            (200, b'{"response": {"uid": "UID", "scale": true, "replicas": 7.0}}'),
            (200, b'{"response": {"uid": "UID", "scale": "yes", "replicas": 7}}'),
            (200, b'{"response": {"uid": "UID", "scale": true, "replicas": 2147483648}}'),
        ],
    )
    def test_an_error_makes_a_chain_go_on_and_nothing_else(self, answering, status, body):
        assert answering(status, body).sync() == Applied("buffer", 10)
        with pytest.raises(PolicyFailed):
            answering(status, body, kind="Webhook").sync()

    def test_what_is_answered_is_not_clamped(self, answering):
        body = b'{"response": {"uid": "UID", "scale": true, "replicas": 5000}}'
        assert answering(200, body).sync() == Applied("autopilot", 5000)

    def test_no_scale_sets_what_there_is(self, answering):
        """Which takes back what was asked for and is not there yet: the fleet has 10 of 42."""
        body = b'{"response": {"uid": "UID", "scale": false, "replicas": 42}}'
        assert answering(200, body).sync() == Applied("autopilot", 10)

    def test_who_does_not_answer_in_time_is_passed_over(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            agones = webhook_at(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.2)
            assert agones.sync() == Applied("buffer", 10)
        assert "ReadTimeout" in agones.errors[0]


def webhook_at(url: str, kind: str = "Chain", **how: Any) -> AgonesController:
    manifest = page()
    webhook = {"url": url}
    policy = {"type": "Webhook", "webhook": webhook}
    if kind == "Chain":
        policy = manifest["spec"]["policy"]
        policy["chain"][0]["webhook"] = webhook
    fleet = AgonesFleet(spec_replicas=42)
    return AgonesController({"spec": {"policy": policy}}, fleet, **how)
