"""What the HTTP services share: errors as problems, access, counting, plain routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from shared import errors
from shared.http.access import Access
from shared.http.app import HttpService, JsonBytes
from shared.http.hosts import Hosts
from shared.http.problems import problem_of
from shared.http.requests import fleet_of, read_body
from shared.http.tokens import WEBHOOKS, Tokens

RAISED = [
    (errors.BadInput("send a number"), 422),
    (errors.BadSetting("set it"), 422),
    (errors.UnknownFleet("mars", ("default",)), 404),
    (errors.BusAway("Redis does not answer"), 503),
    (errors.DemandMissing("nothing is known"), 503),
    (errors.PolicyMissing("no such version"), 404),
    (errors.PolicyCorrupt("does not match"), 503),
    (errors.StepConflict("read again"), 500),
    (HTTPException(413, "send less"), 413),
]


@asynccontextmanager
async def no_lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


def service(
    registry: CollectorRegistry | None = None,
    token: str | None = None,
    agones: str | None = None,
    hosts: tuple[str, ...] = (),
) -> HttpService:
    return HttpService(
        title="test",
        description="test",
        lifespan=no_lifespan,
        registry=registry or CollectorRegistry(),
        access=Access(Tokens(token, agones), Hosts(hosts)),
    )


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.mark.parametrize(("error", "status"), RAISED, ids=lambda case: type(case).__name__)
@pytest.mark.parametrize("path", ["/plain", "/plain/eu-west", "/fastapi"])
async def test_errors_are_problems_whichever_way_they_come(error, status, path):
    async def raises(request: Request) -> JsonBytes:
        raise error

    app = service()
    app.add_api_route("/plain", raises)
    app.add_api_route("/plain/{fleet}", raises)
    app.add_route("/fastapi", raises)
    async with client_of(app) as client:
        answer = await client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": answer.json()["title"],
        "status": status,
        "detail": getattr(error, "detail", str(error)),
    }
    assert (answer.headers.get("retry-after") == "1") == isinstance(error, errors.BusAway)


@pytest.mark.parametrize("path", ["/plain", "/plain/x", "/fastapi"])
async def test_what_is_unforeseen_is_500_and_leaks_nothing(path):
    async def raises(request: Request) -> JsonBytes:
        raise RuntimeError("the password is 1234")

    registry = CollectorRegistry()
    app = service(registry)
    app.add_api_route("/plain", raises)
    app.add_api_route("/plain/{fleet}", raises)
    app.add_route("/fastapi", raises)
    async with client_of(app) as client:
        answer = await client.get(path)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "1234" not in answer.text
    assert 'status="500"' in generate_latest(registry).decode()


async def test_what_fastapi_validates_is_told_with_the_field():
    app = FastAPI()

    @app.get("/typed")
    async def typed(steps: int) -> int:
        return steps

    plain = service()
    plain.mount("/", app)
    app.exception_handlers.update(plain.exception_handlers)
    async with client_of(plain) as client:
        answer = await client.get("/typed", params={"steps": "many"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("query.steps: Input should be a valid integer")


async def test_unknown_addresses_and_methods_are_problems():
    async def hello(request: Request) -> JsonBytes:
        return JsonBytes(b"{}")

    app = service()
    app.add_api_route("/hello", hello)
    async with client_of(app) as client:
        missing = await client.get("/nowhere")
        wrong = await client.post("/hello")
    assert missing.status_code == 404
    assert "GET /docs" in missing.json()["detail"]
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET"
    assert wrong.json()["status"] == 405


async def test_with_a_token_even_unknown_addresses_want_it():
    async with client_of(service(token="s3cret")) as client:
        assert (await client.get("/nowhere")).status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert (await client.get("/nowhere", headers=headers)).status_code == 404


@pytest.mark.parametrize(
    ("token", "password", "sent", "statuses"),
    [
        ("s3cret", None, ("any", "s3cret"), (200, 200)),
        ("s3cret", "h00k", ("any", "h00k"), (200, 403)),
        ("s3cret", "h00k", ("any", "s3cret"), (200, 200)),
        ("s3cret", "h00k", ("h00k", "wrong"), (401, 401)),
        ("s3cret", "h00k", None, (401, 401)),
        (None, "h00k", None, (401, 401)),
        (None, "h00k", ("", "h00k"), (200, 403)),
    ],
)
async def test_a_caller_without_headers_has_its_token_in_the_address(
    token, password, sent, statuses
):
    """As Go's client and httpx make a header of it: of a webhook, and of another address."""

    async def hello(request: Request) -> JsonBytes:
        return JsonBytes(b"{}")

    app = service(token=token, agones=password)
    app.add_api_route("/hook/{fleet}", hello, roles=WEBHOOKS)
    app.add_api_route("/hello", hello)
    who = "" if sent is None else f"{sent[0]}:{sent[1]}@"
    async with client_of(app) as client:
        answers = [await client.get(f"http://{who}service{path}") for path in ("/hook/a", "/hello")]
    assert tuple(answer.status_code for answer in answers) == statuses
    paths = app.openapi()["paths"]
    assert paths["/hook/{fleet}"]["get"]["security"] == [
        {"basic": ["agones"]},
        {"bearer": ["report"]},
    ]
    assert paths["/hello"]["get"]["security"] == [{"bearer": ["operate"]}, {"bearer": ["read"]}]


@pytest.mark.parametrize(
    "header", ["Basic !", "Basic", "Basic czNjcmV0", "Digest s3cret", "s3cret"]
)
async def test_a_header_that_is_no_token_is_refused(header):
    async with client_of(service(token="s3cret")) as client:
        answer = await client.get("/nowhere", headers={"Authorization": header})
    assert answer.status_code == 401


async def test_methods_that_callers_invent_make_no_labels():
    registry = CollectorRegistry()
    async with client_of(service(registry)) as client:
        for number in range(20):
            await client.request(f"X{number}", "/nowhere")
    counted = generate_latest(registry).decode()
    assert 'method="other",route="",status="404"} 20.0' in counted
    assert "X1" not in counted


@pytest.mark.parametrize(
    ("query", "fleet"),
    [
        ("", "default"),
        ("fleet=eu-west", "eu-west"),
        ("fleet=eu%2Dwest", "eu-west"),
        ("x=1", "default"),
        ("x=1&fleet=a&fleet=b", "b"),
        ("fleet=", ""),
        ("%ff=%fe&&&", "default"),
    ],
)
async def test_the_fleet_is_read_from_the_query(query, fleet):
    async def echo(request: Request) -> JsonBytes:
        return JsonBytes(fleet_of(request).encode())

    app = service()
    app.add_api_route("/echo", echo)
    async with client_of(app) as client:
        assert (await client.get("/echo?" + query)).text == fleet


async def test_an_endless_body_is_left_at_the_limit():
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1024

    async def echo(request: Request) -> JsonBytes:
        return JsonBytes(await read_body(request, limit=4096))

    app = service()
    app.add_api_route("/echo", echo, methods=["POST"])
    async with client_of(app) as client:
        answer = await client.post("/echo", content=endless())
    assert answer.status_code == 413
    assert taken == 5


def test_documents_name_the_token_only_where_it_is_wanted():
    async def hello(request: Request) -> JsonBytes:
        return JsonBytes(b"{}")

    for token in (None, "s3cret"):
        app = service(token=token)
        app.add_api_route("/hello", hello)
        app.add_api_route("/healthz", hello)
        paths = app.openapi()["paths"]
        assert ("security" in paths["/hello"]["get"]) == (token is not None)
        assert "security" not in paths["/healthz"]["get"]
        assert "Problem" in app.openapi()["components"]["schemas"]


def test_a_client_that_left_is_no_failure_of_ours():
    from starlette.requests import ClientDisconnect

    assert problem_of(ClientDisconnect(), "/demand").status_code == 400
