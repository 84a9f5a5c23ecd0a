"""What SageMaker asks of a container: `POST /invocations` and `GET /ping`."""

from collections.abc import Callable, Sequence
from typing import Any

from shared.http.requests import read_body
from starlette.requests import Request

from services.prediction.invocations import (
    BODY_LIMIT,
    Invocation,
    body_schema,
    check_content_type,
    invoke,
    observations,
)
from shared.core.parameters import FleetParameters
from shared.http.app import HttpService, JsonBytes
from shared.http.health import Health
from shared.http.problems import problems
from shared.http.tokens import READERS
from shared.policies.runtime import Policy

Serving = Callable[[Request], tuple[Policy, FleetParameters]]
"""The policy that answers a request, and the parameters of its fleet."""


def add_hosting_routes(
    app: HttpService, serving: Serving, parameters: Sequence[dict[str, Any]] = ()
) -> None:
    """Add `/invocations` and `/ping`; `parameters` document what `serving` reads of a request."""

    async def invocations(request: Request) -> JsonBytes:
        """Run a policy on observations, as a SageMaker container does."""
        policy, of_fleet = serving(request)
        check_content_type(request.headers.get("content-type", ""))
        rows = observations(await read_body(request, BODY_LIMIT), policy.fields, of_fleet)
        return JsonBytes(invoke(policy, rows, of_fleet))

    async def ping(_: Request) -> JsonBytes:
        """A SageMaker container's health: it can take `/invocations`."""
        return JsonBytes(b'{"status":"ok"}')

    content = {"application/json": {"schema": body_schema()}}
    app.add_api_route(
        "/invocations",
        invocations,
        methods=["POST"],
        roles=READERS,
        response_model=Invocation,
        responses=problems(404, 413, 415, 422, 503),
        openapi_extra={
            "parameters": list(parameters),
            "requestBody": {"required": True, "content": content},
        },
        tags=["policies"],
    )
    app.add_api_route("/ping", ping, response_model=Health, tags=["health"])
