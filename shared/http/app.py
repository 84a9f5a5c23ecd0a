"""The app of every HTTP service: FastAPI with lightweight routes, and access control.

`tests/bench/serving.py` measures it against a FastAPI no-op.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http.access import OPEN_PATHS, Access, Guard, Guarded, roles_by_default
from shared.http.health import RequestCounter
from shared.http.problems import Problem, add_problem_handlers, problem_of, problems
from shared.http.tokens import Role, Roles

_JSON_TYPE = (b"content-type", b"application/json")
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic", "description": "the token is the password"},
}

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class JsonBytes(Response):
    """A response of encoded JSON, without `Response`'s processing of headers."""

    def __init__(self, body: bytes, status_code: int = 200) -> None:
        self.body = body
        self.status_code = status_code
        self.background = None
        self.raw_headers = [_JSON_TYPE, (b"content-length", b"%d" % len(body))]


class PlainRoute(APIRoute):
    """A route that FastAPI only documents; its endpoint is `async def (Request) -> Response`.

    FastAPI's parsing of parameters and encoding of responses takes longer than our endpoints do, so
    `openapi_extra` describes parameters and bodies instead. Errors are returned as problems.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **documentation: Any) -> None:
        super().__init__(path, endpoint, **documentation)
        self.app = _answering(endpoint)
        self.verbs = frozenset(self.methods or ())
        self.roles: Roles = roles_by_default(self.verbs)

    def guarded(self) -> Iterator[Guarded]:
        """The route's roles, by method."""
        pattern = self.path_regex if self.param_convertors else None
        return (Guarded(method, self.path, pattern, self.roles) for method in self.verbs)


def _answering(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001 - any error becomes a response, and is logged
            response = problem_of(error, scope["path"])
        await response(scope, receive, send)

    return app


class _Front:
    """ASGI middleware that dispatches plain routes by their exact path, before FastAPI.

    FastAPI's telemetry, six middlewares and regular expressions take several times as long as our
    endpoints. Other requests (path parameters, documentation, 404, 405) go through FastAPI.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[PlainRoute]) -> None:
        self._app = app
        self._routes: dict[tuple[Any, Any], PlainRoute] = {
            (method, route.path): route for route in routes for method in route.verbs
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
    """A FastAPI app with problems as errors, counted requests, access control and plain routes.

    `messages` are the models of request bodies: `openapi_extra` refers to them as
    ``#/components/schemas/<name>``.
    """

    def __init__(
        self,
        *,
        title: str,
        description: str,
        lifespan: Lifespan,
        registry: CollectorRegistry,
        access: Access,
        messages: Sequence[type[BaseModel]] = (),
    ) -> None:
        super().__init__(title=title, description=description, lifespan=_watching(access, lifespan))
        self.router.route_class = PlainRoute
        self._messages: tuple[type[BaseModel], ...] = (Problem, *messages)
        self._registry = registry
        self._access = access
        self._front: ASGIApp | None = None
        add_problem_handlers(self)

    def add_api_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        roles: Roles | None = None,
        **documentation: Any,
    ) -> None:
        """Add a plain route for these roles; by default readers for GET, else operators."""
        super().add_api_route(path, endpoint, **documentation)
        route = self.routes[-1]
        if roles is not None and isinstance(route, PlainRoute):
            route.roles = roles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._front is None:
            self._front = self._build_front()
        path = scope.get("path", "")
        if path.endswith("/") and path != "/":
            # The notebook's client ends URLs with a slash, and follows no redirects.
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await self._front(scope, receive, send)

    def _build_front(self) -> ASGIApp:
        plain = [route for route in self.routes if isinstance(route, PlainRoute)]
        front = _Front(super().__call__, plain)
        guarded = [each for route in plain for each in route.guarded()]
        return RequestCounter(Guard(front, self._access, guarded), self._registry)

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with our messages, and the roles where tokens are required."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, definitions = models_json_schema(
                [(message, "validation") for message in self._messages],
                ref_template="#/components/schemas/{model}",
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            if self._access.tokens:
                components["securitySchemes"] = _SCHEMES
            for route in self.routes:
                if isinstance(route, PlainRoute):
                    for method in route.verbs:
                        self._document_access(document["paths"][route.path], method, route)
            self.openapi_schema = document
        return self.openapi_schema

    def _document_access(self, path: dict[str, Any], method: str, route: PlainRoute) -> None:
        if (method, route.path) in OPEN_PATHS:
            return
        operation = path[method.lower()]
        refusals = problems(421)
        if self._access.tokens:
            refusals |= problems(401, 403)
            operation["security"] = [
                {"basic" if role is Role.AGONES else "bearer": [role.value]}
                for role in sorted(route.roles)
            ]
        operation["responses"] |= {str(status): said for status, said in refusals.items()}


def _watching(access: Access, lifespan: Lifespan) -> Lifespan:
    """The lifespan, during which changed tokens are read again."""

    @asynccontextmanager
    async def watching(app: FastAPI) -> AsyncIterator[None]:
        access.log()
        renewing = asyncio.create_task(access.tokens.renew_for_ever())
        try:
            async with lifespan(app):
                yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    return watching
