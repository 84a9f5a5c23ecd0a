"""What the HTTP services share: routes without machinery, access, body limits, the server.

Figures in the reasons below are ratios to a FastAPI no-op; `tests/bench/serving.py` measures.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.access import OPEN_PATHS, Access
from shared.errors import BadInput, BadSetting, quoted
from shared.health import RequestCounter
from shared.problems import Problem, add_problem_handlers, problem_of
from shared.tls import Certificate

BODY_LIMIT = 16 * 1024
"""Bytes of a request's body, unless a route says otherwise."""
QUERY_LIMIT = 1024
"""Bytes. Answers to queries are remembered, so that a long one would stay in memory."""
STOP_SECONDS = 5
"""Time that requests have to finish after SIGTERM."""
DEFAULT_FLEET = "default"
FLEET_PARAMETER: dict[str, Any] = {
    "name": "fleet",
    "in": "query",
    "description": "the fleet's name",
    "schema": {"type": "string", "default": DEFAULT_FLEET},
}
SHADOW_PARAMETER: dict[str, Any] = {
    "name": "shadow",
    "in": "query",
    "description": "true: also what would be told of a fleet in shadow",
    "schema": {"type": "boolean", "default": False},
}
_SECURED: list[dict[str, list[str]]] = [{"bearer": []}]
_JSON_TYPE = (b"content-type", b"application/json")

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class JsonBytes(Response):
    """JSON that is encoded already; without `Response`'s work on headers."""

    def __init__(self, body: bytes, status_code: int = 200) -> None:
        self.body = body
        self.status_code = status_code
        self.background = None
        self.raw_headers = [_JSON_TYPE, (b"content-length", b"%d" % len(body))]


class PlainRoute(APIRoute):
    """A route that FastAPI documents and that runs bare: `async def (Request) -> Response`.

    FastAPI's solving of parameters and encoding of answers costs more than our answers do, so
    `openapi_extra` describes parameters and bodies instead. What the endpoint raises is answered
    as a problem.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **documentation: Any) -> None:
        super().__init__(path, endpoint, **documentation)
        self.app = _answering(endpoint)


def _answering(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001 - an error is an answer, and is logged
            response = problem_of(error, scope["path"])
        await response(scope, receive, send)

    return app


class _Front:
    """ASGI middleware that finds a plain route by its exact path, ahead of FastAPI itself.

    FastAPI's telemetry, six middlewares and a row of regular expressions cost several times our
    answers; what has no exact path (parameters in it, documentation, 404, 405) goes through them.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes: dict[tuple[Any, Any], PlainRoute] = {
            (method, route.path): route
            for route in routes
            if isinstance(route, PlainRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope.get("method"), scope.get("path")))
        if route is None:
            await self._app(scope, receive, send)
        else:
            scope["route"] = route
            scope["path_params"] = {}
            await route.app(scope, receive, send)


class HttpService(FastAPI):
    """A FastAPI app with problems as errors, counted requests, a token and plain routes.

    `messages` are the models of request bodies: `openapi_extra` refers to them as
    ``#/components/schemas/<name>``. With a token, every path but `open_paths` wants it; what is
    under a path in `passwords` takes that one too.
    """

    def __init__(
        self,
        *,
        title: str,
        description: str,
        lifespan: Lifespan,
        registry: CollectorRegistry,
        token: str | None,
        open_paths: frozenset[tuple[str, str]] = OPEN_PATHS,
        messages: Sequence[type[BaseModel]] = (),
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(title=title, description=description, lifespan=lifespan)
        self.router.route_class = PlainRoute
        self._messages: tuple[type[BaseModel], ...] = (Problem, *messages)
        self._registry = registry
        self._token = token
        self._front: ASGIApp | None = None
        self._open_paths = open_paths
        self._passwords = passwords or {}
        add_problem_handlers(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._front is None:
            self._front = self._build_front()
        path = scope.get("path", "")
        if path.endswith("/") and path != "/":
            # The notebook's client ends addresses with slashes, and follows no redirect.
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await self._front(scope, receive, send)

    def _build_front(self) -> ASGIApp:
        app: ASGIApp = _Front(super().__call__, self.routes)
        if self._token is not None or self._passwords:
            app = Access(app, self._token, self._open_paths, self._passwords)
        return RequestCounter(app, self._registry)

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the messages, and where the token is wanted."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, definitions = models_json_schema(
                [(message, "validation") for message in self._messages],
                ref_template="#/components/schemas/{model}",
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            if self._token is not None or self._passwords:
                components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
                for path, methods in document["paths"].items():
                    own = path.startswith(tuple(self._passwords))
                    for method, operation in methods.items():
                        open_to_all = (method.upper(), path) in self._open_paths
                        if own or (self._token is not None and not open_to_all):
                            operation["security"] = _SECURED
            self.openapi_schema = document
        return self.openapi_schema


def fleet_of(request: Request) -> str:
    """The fleet that a request names, else `default`."""
    named = fleet_named(request)
    return DEFAULT_FLEET if named is None else named


def fleet_named(request: Request) -> str | None:
    """The fleet that a request names in its path or query, if it does."""
    in_path = request.scope["path_params"].get("fleet")
    return in_path or _fleet_in(_query_of(request))


def _query_of(request: Request) -> bytes:
    query: bytes = request.scope["query_string"]
    if len(query) > QUERY_LIMIT:
        raise BadInput(f"the query has {len(query)} bytes: send at most {QUERY_LIMIT}")
    return query


@lru_cache(maxsize=4096)
def _fleet_in(query: bytes) -> str | None:
    named = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("fleet")
    return named[-1] if named else None


def shadow_of(request: Request) -> bool:
    """Whether a request asks for a shadow's answer too; raises `BadInput`."""
    query = _query_of(request)
    return b"shadow" in query and _shadow_in(query)


@lru_cache(maxsize=4096)
def _shadow_in(query: bytes) -> bool:
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("shadow", ["false"])[-1]
    if asked not in ("true", "false"):
        raise BadInput(f"shadow is {quoted(asked)}: write shadow=true, or leave it out")
    return asked == "true"


async def read_body(request: Request, limit: int = BODY_LIMIT) -> bytes:
    """The body of a request; answers 413 as soon as more than `limit` bytes have come."""
    receive = request.receive
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise HTTPException(413, f"the body is over {limit} bytes: send less in one request")
        if not message.get("more_body", False):
            return body


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, certificate: Certificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate
        if certificate is not None:
            config.load()
            config.ssl = certificate.context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What is there after the start stays: keep the collector off it (10 to 20 %)."""
        await super().startup(sockets)
        if self._certificate is not None:
            self._renewing = asyncio.create_task(self._certificate.renew_for_ever())
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)


def serve(app: ASGIApp, host: str, port: int, certificate: Certificate | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raises `BadSetting` when the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise BadSetting(
            f"can't listen on {host}:{port}: {reason}; end what uses the port, or set another "
            "AUTOPILOT_HOST or port"
        ) from error
    server = _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        ),
        certificate,
    )
    # uvicorn raises the signal again when it has stopped; that is a good end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with listening:
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)
