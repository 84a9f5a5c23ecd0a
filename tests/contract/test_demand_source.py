"""Demand over real HTTP: what a matchmaker may answer, and what the worker makes of it."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from services.environment.demand_source import HttpDemand, LocalSine, Reading
from shared.errors import DemandMissing
from shared.messages import Supply
from tests.conftest import NOW


class Matchmaker:
    """An HTTP server that gives the listed answers in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.paths: list[str] = []
        matchmaker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                matchmaker.paths.append(self.path)
                answers = matchmaker.answers
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/demand?fleet={{fleet}}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def matchmaker():
    matchmaker = Matchmaker()
    yield matchmaker
    matchmaker.server.shutdown()
    matchmaker.server.server_close()


async def read(url, period_s=5.0):
    async with httpx.AsyncClient() as client:
        return await HttpDemand(client, asyncio.Semaphore(2), url, "eu-west", period_s).read(1)


def answer(servers) -> tuple[int, str]:
    return 200, json.dumps({"Prediction": {"num_of_gameservers": servers}})


async def test_demand_is_read_for_the_fleet(matchmaker):
    matchmaker.answers = [answer(84.5)]
    assert await read(matchmaker.url) == Reading(84.5)
    assert matchmaker.paths == ["/demand?fleet=eu-west"]


async def test_the_notebooks_text_numbers_are_taken(matchmaker):
    matchmaker.answers = [answer("84.5")]
    assert (await read(matchmaker.url)).demand == 84.5


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        (
            {
                "supply": {"allocated": 40, "ready": 9},
                "tickets_waiting": 8,
                "observed_at": "2026-11-22T21:33:01+01:00",
            },
            (Supply(allocated=40, ready=9), 8, NOW),
        ),
        ({"supply": {"allocated": 40, "ready": "9"}}, (Supply(allocated=40), None, None)),
        ({"supply": {"ready": 9}}, (None, None, None)),
        ({"supply": [40], "tickets_waiting": "many"}, (None, None, None)),
        ({"supply": {"allocated": -1}, "tickets_waiting": 0.5}, (None, None, None)),
        ({"supply": {"allocated": True}, "observed_at": "noon"}, (None, None, None)),
        ({"observed_at": "2026-11-22T20:33:01"}, (None, None, None)),
        ({"observed_at": "0001-01-01T00:00:00+14:00"}, (None, None, None)),
    ],
)
async def test_what_is_in_use_is_read_where_it_is_told(matchmaker, beside, told):
    body = {"Prediction": {"num_of_gameservers": 50}, **beside}
    matchmaker.answers = [(200, json.dumps(body))]
    assert await read(matchmaker.url) == (50, *told)


async def test_a_passing_fault_is_tried_again(matchmaker):
    matchmaker.answers = [(502, "bad gateway"), (500, "oops"), answer(7)]
    assert (await read(matchmaker.url)).demand == 7
    assert len(matchmaker.paths) == 3


async def test_a_lasting_fault_ends_within_half_a_period(matchmaker):
    matchmaker.answers = [(500, "oops")]
    with pytest.raises(DemandMissing, match="answers 500"):
        await read(matchmaker.url)
    assert len(matchmaker.paths) == 3


@pytest.mark.parametrize(
    "reply",
    [
        (503, '{"detail": "no demand is known"}'),
        (404, "not here"),
        (200, "<html>"),
        (200, "[]"),
        (200, '{"Prediction": {}}'),
        answer("many"),
        answer(None),
        answer(-1),
        answer(float("nan")),
        answer(1e9),
    ],
)
async def test_what_is_no_demand_is_missing_at_once(matchmaker, reply):
    matchmaker.answers = [reply]
    with pytest.raises(DemandMissing):
        await read(matchmaker.url)
    assert len(matchmaker.paths) == 1


async def test_nobody_there_is_missing():
    with pytest.raises(DemandMissing, match="does not answer"):
        await read("http://127.0.0.1:9/demand", period_s=0.2)


async def test_the_local_sine_is_the_notebooks():
    first = await LocalSine(100).read(1)
    assert first.demand == pytest.approx(22.120988611448297, abs=1e-12)
    assert await LocalSine(100).read(61) == await LocalSine(100).read(1)
