"""Demand over real HTTP: what a matchmaker may answer, and what the worker makes of it."""

import asyncio
import json
import threading
from functools import partial
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
        serve = partial(self.server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()


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


@pytest.mark.parametrize(
    "body",
    [
        '{"Prediction": {"num_of_gameservers": 1%s}}' % ("0" * 400),
        '{"Prediction": {"num_of_gameservers": 1%s}}' % ("0" * 5_000),
        '{"Prediction": {"num_of_gameservers": "1%s"}}' % ("0" * 400),
        '{"Prediction": {"num_of_gameservers": 1e400}}',
        '{"Prediction": {"num_of_gameservers": "nan"}}',
        '{"Prediction": {"num_of_gameservers": null}}',
        '{"Prediction": {"num_of_gameservers": [84]}}',
        '{"Prediction": [84]}',
        '{"Prediction": "num_of_gameservers"}',
        '"Prediction"',
        "[" * 30_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "\x00",
        " " * 70_000 + '{"Prediction": {"num_of_gameservers": 84}}',
    ],
    ids=lambda body: body.strip()[:45],
)
async def test_what_any_url_may_answer_is_demand_or_none(matchmaker, body):
    matchmaker.answers = [(200, body)]
    with pytest.raises(DemandMissing) as missing:
        await read(matchmaker.url)
    assert matchmaker.url.replace("{fleet}", "eu-west") in str(missing.value)
    assert len(str(missing.value)) < 400


async def test_an_error_of_any_length_is_cut(matchmaker):
    matchmaker.answers = [(404, "x" * 60_000)]
    with pytest.raises(DemandMissing, match="answers 404: xxx") as missing:
        await read(matchmaker.url)
    assert len(str(missing.value)) < 400


HUGE = 10**400


@pytest.mark.parametrize(
    "beside",
    [
        {"supply": {"allocated": HUGE, "ready": 9}},
        {"supply": {"allocated": 1_000_001}},
        {"tickets_waiting": HUGE},
        {"tickets_waiting": 1_000_000_001},
        {"observed_at": HUGE},
        {"observed_at": "0001-01-01T00:00:00+14:00"},
        {"observed_at": "9" * 5_000},
    ],
)
async def test_what_can_t_be_is_ignored_beside_the_demand(matchmaker, beside):
    matchmaker.answers = [(200, json.dumps({"Prediction": {"num_of_gameservers": 84}, **beside}))]
    assert await read(matchmaker.url) == Reading(84.0)


async def test_counts_that_can_be_are_taken_beside_those_that_can_t(matchmaker):
    supply = {"allocated": 1_000_000, "ready": HUGE, "reserved": 2}
    matchmaker.answers = [
        (200, json.dumps({"Prediction": {"num_of_gameservers": 84}, "supply": supply}))
    ]
    assert (await read(matchmaker.url)).supply == Supply(allocated=1_000_000, reserved=2)


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
