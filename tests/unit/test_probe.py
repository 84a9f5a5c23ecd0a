"""What a container's health check finds."""

import http.server
import os
import threading
from pathlib import Path

import pytest

from shared.http.tls import Certificate
from shared.probe import WELL_SECONDS, ailment, beat
from tests.certificates import a_certificate


@pytest.fixture(params=["http", "https"])
def served(request, tmp_path):
    """A service that answers each path with its number: ``/200``."""

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.end_headers()
            self.wfile.write(b"what is wrong")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Service) as server:
        if request.param == "https":
            certificate = Certificate(*a_certificate(tmp_path))
            server.socket = certificate.context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"{request.param}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_service_that_is_ready_is_well(served):
    assert ailment(f"{served}/200") is None


def test_a_service_that_is_not_ready_says_why(served):
    assert ailment(f"{served}/503") == "what is wrong"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_service_that_is_not_there(unused_port, scheme):
    assert "does not answer" in ailment(f"{scheme}://127.0.0.1:{unused_port()}/readyz")


def test_a_worker_that_beats_is_well(tmp_path):
    heartbeat = tmp_path / "heartbeat"
    assert "no heartbeat yet" in ailment(str(heartbeat))
    beat(heartbeat)
    assert ailment(str(heartbeat)) is None


def test_a_worker_that_has_stopped_beating_is_not_well(tmp_path):
    heartbeat = tmp_path / "heartbeat"
    beat(heartbeat)
    then = heartbeat.stat().st_mtime - WELL_SECONDS - 1
    os.utime(heartbeat, (then, then))
    assert "s old" in ailment(str(heartbeat))
    beat(heartbeat)
    assert ailment(str(heartbeat)) is None


def test_without_anybody_who_looks_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beat(None)
    assert list(Path().iterdir()) == []
