"""The HTTP interface for lobbies and autoscalers: how many game servers to have."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import orjson
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from pydantic import BaseModel, Field
from starlette.requests import Request

from services.prediction.board import Board
from services.prediction.catalogue import Catalogue, catalogue
from services.prediction.explain import add_explain_route
from services.prediction.follower import following
from services.prediction.invocations import (
    BODY_LIMIT,
    Invocation,
    body_schema,
    invoke,
    observations,
)
from services.prediction.outlook import PredictionAnswer
from shared.bus import Bus
from shared.champions import Champions
from shared.health import Health, add_health_routes
from shared.http import (
    FLEET_PARAMETER,
    SHADOW_PARAMETER,
    HttpService,
    JsonBytes,
    fleet_of,
    read_body,
    shadow_of,
)
from shared.policy_store import PolicyStore
from shared.problems import problems
from shared.settings import Fleets

_OF_FLEET: dict[str, Any] = {"parameters": [FLEET_PARAMETER]}
_FLEET_IN_PATH = FLEET_PARAMETER | {"in": "path", "required": True, "schema": {"type": "string"}}
_INVOCATION: dict[str, Any] = _OF_FLEET | {
    "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema()}}}
}


class Predictions(BaseModel):
    """Every fleet's answer."""

    predictions: dict[str, PredictionAnswer | None] = Field(
        description="by fleet; null where there is nothing to say"
    )
    reasons: dict[str, str] = Field(description="why, for the fleets with null")


class PolicyRefusals:
    """A collector of how many policies were refused."""

    def __init__(self, champions: Champions) -> None:
        self._champions = champions

    def collect(self) -> list[CounterMetricFamily]:
        return [
            CounterMetricFamily(
                "autopilot_policies_refused",
                "Policies that could not be loaded",
                value=self._champions.refused,
            )
        ]


def create_app(
    *,
    bus: Bus,
    fleets: Fleets,
    store: PolicyStore,
    clock: Callable[[], datetime],
    token: str | None = None,
) -> HttpService:
    """The prediction service over a bus, which it closes at its end, and a policy store."""
    board = Board(fleets)
    champions = Champions(store, fleets)
    parameters = {name: settings.parameters for name, settings in fleets.by_name.items()}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with following(bus, board, champions):
            yield
        await bus.close()

    async def ready() -> None:
        """Answers from memory need no Redis; without any, Redis has to be there."""
        answers, _ = board.all_encoded(clock(), shadow=True)
        if not answers:
            await bus.ping()

    registry = CollectorRegistry()
    registry.register(PolicyRefusals(champions))
    app = HttpService(
        title="gameserver-autopilot prediction",
        description="How many game servers to have.",
        lifespan=lifespan,
        registry=registry,
        token=token,
    )

    async def prediction(request: Request) -> JsonBytes:
        """How many game servers a fleet should have now, answered from memory."""
        return JsonBytes(board.encoded(fleet_of(request), clock(), shadow=shadow_of(request)))

    async def predictions(request: Request) -> JsonBytes:
        """How many game servers every fleet should have now."""
        answers, reasons = board.all_encoded(clock(), shadow=shadow_of(request))
        content = {
            "predictions": dict.fromkeys(reasons)
            | {name: orjson.Fragment(answer) for name, answer in answers.items()},
            "reasons": reasons,
        }
        return JsonBytes(orjson.dumps(content))

    async def invocations(request: Request) -> JsonBytes:
        """Run a fleet's policy on observations, as a SageMaker container does."""
        policy = champions.policy(fleet := fleet_of(request))
        rows = observations(await read_body(request, BODY_LIMIT), policy.fields, parameters[fleet])
        return JsonBytes(invoke(policy, rows, parameters[fleet]))

    async def ping(_: Request) -> JsonBytes:
        """A SageMaker container's health: it can take `/invocations`."""
        return JsonBytes(b'{"status":"ok"}')

    async def policies(request: Request) -> JsonBytes:
        """A fleet's policy versions, their scores, and which one serves."""
        serving = champions.policy(fleet := fleet_of(request)).version
        found = await asyncio.to_thread(catalogue, store, fleet, serving)
        return JsonBytes(found.model_dump_json().encode())

    for path, fleet in (("/prediction", FLEET_PARAMETER), ("/predict/{fleet}", _FLEET_IN_PATH)):
        app.add_api_route(
            path,
            prediction,
            response_model=PredictionAnswer,
            responses=problems(401, 404, 422, 503),
            openapi_extra={"parameters": [fleet, SHADOW_PARAMETER]},
            tags=["prediction"],
        )
    app.add_api_route(
        "/invocations",
        invocations,
        methods=["POST"],
        response_model=Invocation,
        responses=problems(401, 404, 413, 422, 503),
        openapi_extra=_INVOCATION,
        tags=["policies"],
    )
    app.add_api_route(
        "/predictions",
        predictions,
        response_model=Predictions,
        responses=problems(401, 422),
        openapi_extra={"parameters": [SHADOW_PARAMETER]},
        tags=["prediction"],
    )
    app.add_api_route(
        "/policies",
        policies,
        response_model=Catalogue,
        responses=problems(401, 404, 503),
        openapi_extra=_OF_FLEET,
        tags=["policies"],
    )
    add_explain_route(app, bus, board, fleets, clock)
    app.add_api_route("/ping", ping, response_model=Health, tags=["health"])
    add_health_routes(app, ready, registry)
    return app
