"""Health and metrics of an HTTP service: `/healthz`, `/readyz`, `/metrics`, counted requests."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.problems import problems

Ready = Callable[[], Awaitable[None]]
"""Returns if the service is ready, else raises an `AutopilotError` with the reason."""

_OK = b'{"status":"ok"}'
_COUNTED_METHODS = frozenset({"GET", "POST"})


class Health(BaseModel):
    """The service is healthy."""

    status: str


class RequestCounter:
    """ASGI middleware that counts requests by route, method and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "autopilot_http_requests",
            "HTTP requests answered",
            ("route", "method", "status"),
            registry=registry,
        )
        self._bound: dict[tuple[str, str, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        def watch(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._count(scope, status)

    def _count(self, scope: Scope, status: int) -> None:
        route = scope.get("route")
        # Callers may invent methods: a label for each would exhaust the memory.
        method = scope["method"] if scope["method"] in _COUNTED_METHODS else "other"
        key = (route.path if route is not None else "", method, status)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._requests.labels(*key)
        bound.inc()


def add_health_routes(app: FastAPI, ready: Ready, registry: CollectorRegistry) -> None:
    """Add `/healthz` (alive), `/readyz` (503 with the reason) and `/metrics` (Prometheus)."""

    async def healthz(_: Request) -> Response:
        """The process is alive."""
        return Response(_OK, media_type="application/json")

    async def readyz(_: Request) -> Response:
        """The service is ready; 503 with the reason if it is not."""
        await ready()
        return Response(_OK, media_type="application/json")

    async def metrics(_: Request) -> Response:
        """The service's metrics, for Prometheus."""
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_api_route("/healthz", healthz, response_model=Health, tags=["health"])
    app.add_api_route(
        "/readyz", readyz, response_model=Health, responses=problems(503), tags=["health"]
    )
    app.add_api_route(
        "/metrics",
        metrics,
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["health"],
    )
