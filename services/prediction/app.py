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

from services.prediction.agones import FleetAutoscaleReview, add_agones_routes
from services.prediction.catalogue import Catalogue, catalogue
from services.prediction.explain import add_explain_route
from services.prediction.fleet_states import FleetStates
from services.prediction.follower import following
from services.prediction.invocations import add_hosting_routes
from services.prediction.recommendation import PredictionAnswer
from services.prediction.supply_recorder import Supplies
from shared.bus import Bus
from shared.core.parameters import FleetParameters
from shared.http.access import Access
from shared.http.app import HttpService, JsonBytes
from shared.http.health import add_health_routes
from shared.http.problems import problems
from shared.http.requests import FLEET_PARAMETER, SHADOW_PARAMETER, fleet_of, shadow_of
from shared.policies.champions import Champions
from shared.policies.runtime import Policy
from shared.policies.store import PolicyStore
from shared.settings import Fleets

_OF_FLEET: dict[str, Any] = {"parameters": [FLEET_PARAMETER]}
_FLEET_IN_PATH = FLEET_PARAMETER | {"in": "path", "required": True, "schema": {"type": "string"}}


class Predictions(BaseModel):
    """The recommendations of all fleets."""

    predictions: dict[str, PredictionAnswer | None] = Field(
        description="by fleet; null where there is no recommendation"
    )
    reasons: dict[str, str] = Field(description="the reasons, for the fleets with null")


class PolicyRefusals:
    """A Prometheus collector of the number of refused policies."""

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
    access: Access | None = None,
) -> HttpService:
    """The prediction service on a bus, which it closes at shutdown, and a policy store."""
    states = FleetStates(fleets)
    champions = Champions(store, fleets)
    parameters = {name: settings.parameters for name, settings in fleets.by_name.items()}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with following(bus, states, champions, supplies):
            yield
        await bus.close()

    async def ready() -> None:
        """Recommendations in memory need no Redis; without any, Redis must be available."""
        answers, _ = states.all_encoded(clock(), shadow=True)
        if not answers:
            await bus.ping()

    registry = CollectorRegistry()
    registry.register(PolicyRefusals(champions))
    supplies = Supplies(bus, registry)
    app = HttpService(
        title="gameserver-autopilot prediction",
        description="How many game servers to have.",
        lifespan=lifespan,
        registry=registry,
        access=access or Access(),
        messages=[FleetAutoscaleReview],
    )

    async def prediction(request: Request) -> JsonBytes:
        """How many game servers a fleet should have now, from memory."""
        return JsonBytes(states.encoded(fleet_of(request), clock(), shadow=shadow_of(request)))

    async def predictions(request: Request) -> JsonBytes:
        """How many game servers every fleet should have now."""
        answers, reasons = states.all_encoded(clock(), shadow=shadow_of(request))
        content = {
            "predictions": dict.fromkeys(reasons)
            | {name: orjson.Fragment(answer) for name, answer in answers.items()},
            "reasons": reasons,
        }
        return JsonBytes(orjson.dumps(content))

    def serving(request: Request) -> tuple[Policy, FleetParameters]:
        """The policy for an invocation: that of the fleet which the request names."""
        fleet = fleet_of(request)
        return champions.policy(fleet), parameters[fleet]

    async def policies(request: Request) -> JsonBytes:
        """A fleet's policy versions, their scores, and the one that serves."""
        version = champions.policy(fleet := fleet_of(request)).version
        found = await asyncio.to_thread(catalogue, store, fleet, version)
        return JsonBytes(found.model_dump_json().encode())

    for path, fleet in (("/prediction", FLEET_PARAMETER), ("/predict/{fleet}", _FLEET_IN_PATH)):
        app.add_api_route(
            path,
            prediction,
            response_model=PredictionAnswer,
            responses=problems(404, 422, 503),
            openapi_extra={"parameters": [fleet, SHADOW_PARAMETER]},
            tags=["prediction"],
        )
    app.add_api_route(
        "/predictions",
        predictions,
        response_model=Predictions,
        responses=problems(422),
        openapi_extra={"parameters": [SHADOW_PARAMETER]},
        tags=["prediction"],
    )
    app.add_api_route(
        "/policies",
        policies,
        response_model=Catalogue,
        responses=problems(404, 503),
        openapi_extra=_OF_FLEET,
        tags=["policies"],
    )
    add_hosting_routes(app, serving, [FLEET_PARAMETER])
    add_agones_routes(app, states, fleets, supplies, clock)
    add_explain_route(app, bus, states, fleets, clock)
    add_health_routes(app, ready, registry)
    return app
