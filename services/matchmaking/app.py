"""The HTTP interface for matchmakers: demand in, the newest demand out, simulated demand."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from shared.http.requests import FLEET_PARAMETER, check_json, fleet_of, read_body
from starlette.requests import Request

from services.matchmaking.answers import (
    Accepted,
    DemandAnswer,
    accepted,
    demand_answer,
    demand_of,
    fresh,
    idempotency_key_of,
)
from services.matchmaking.intake import Intake
from shared.bus import Bus
from shared.core.curves import SIMULATOR_PEAK, sine1h, sine24h
from shared.http.access import Access
from shared.http.app import HttpService, JsonBytes
from shared.http.health import add_health_routes
from shared.http.problems import parse, problems
from shared.http.tokens import REPORTERS
from shared.messages import MAX_TEXT, Demand, DemandReport
from shared.settings import Fleets

_DEMAND_BODY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "like `idempotency_key`: a repeat within ten minutes changes nothing, "
            "and the same key with another report is 422",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/DemandReport"}}},
    },
}
_READ: dict[str, Any] = {"parameters": [FLEET_PARAMETER]}


def create_app(
    *, bus: Bus, fleets: Fleets, clock: Callable[[], datetime], access: Access | None = None
) -> HttpService:
    """The matchmaking service over a bus, which it closes at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await bus.close()

    registry = CollectorRegistry()
    app = HttpService(
        title="gameserver-autopilot matchmaking",
        description="Demand in, the newest demand out.",
        lifespan=lifespan,
        registry=registry,
        access=access or Access(),
        messages=[DemandReport],
    )
    intake = Intake(bus)

    async def report_demand(request: Request) -> JsonBytes:
        """Report game servers needed now; 202 means that it is in Redis."""
        check_json(request)
        report = parse(DemandReport, await read_body(request))
        _ = fleets[report.fleet]
        key = idempotency_key_of(report, request.headers.get("idempotency-key"))
        receipt = await intake.record(demand_of(report, clock()), key)
        return JsonBytes(accepted(report, receipt).model_dump_json().encode(), 202)

    async def read_demand(request: Request) -> JsonBytes:
        """The newest demand of a fleet."""
        fleet = fleet_of(request)
        settings = fleets[fleet]
        newest = await bus.newest_demand(fleet)
        now = clock()
        demand = fresh(newest, settings, now, fleet)
        return JsonBytes(demand_answer(demand, now))

    def simulator(curve: Callable[[datetime], float]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> JsonBytes:
            fleet = fleet_of(request)
            _ = fleets[fleet]
            now = clock()
            simulated = Demand(fleet=fleet, demand=curve(now), observed_at=now)
            return JsonBytes(demand_answer(simulated, now))

        return answer

    app.add_api_route(
        "/demand",
        report_demand,
        methods=["POST"],
        roles=REPORTERS,
        status_code=202,
        response_model=Accepted,
        responses=problems(404, 413, 415, 422, 503),
        openapi_extra=_DEMAND_BODY,
        tags=["demand"],
    )
    app.add_api_route(
        "/demand",
        read_demand,
        response_model=DemandAnswer,
        responses=problems(404, 503),
        openapi_extra=_READ,
        tags=["demand"],
    )
    for path, name, curve in (
        ("/currsine1h", "The notebook's sine over an hour, by the minute.", _sine1h),
        ("/currsine24h", "The notebook's slow sine, by the second.", _sine24h),
    ):
        app.add_api_route(
            path,
            simulator(curve),
            name=path[1:],
            description=name,
            response_model=DemandAnswer,
            responses=problems(404),
            openapi_extra=_READ,
            tags=["simulated demand"],
        )
    add_health_routes(app, bus.ping, registry)
    return app


def _sine1h(now: datetime) -> float:
    return sine1h(now.astimezone(UTC).minute, SIMULATOR_PEAK)


def _sine24h(now: datetime) -> float:
    return sine24h(int(now.timestamp()), SIMULATOR_PEAK)
