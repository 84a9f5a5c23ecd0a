"""The HTTP interface for matchmakers: demand reports, the newest demand, simulated demand."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field
from starlette.requests import Request

from services.matchmaking.intake import Intake
from shared.bus import Bus, DemandReceipt, IdempotencyKey
from shared.core.curves import SIMULATOR_PEAK, sine1h, sine24h
from shared.errors import BadInput, DemandMissing
from shared.http.access import Access
from shared.http.app import HttpService, JsonBytes
from shared.http.health import add_health_routes
from shared.http.problems import parse, problems
from shared.http.requests import FLEET_PARAMETER, check_json, fleet_of, read_body
from shared.http.tokens import REPORTERS
from shared.messages import MAX_TEXT, Demand, DemandReport, Supply
from shared.settings import Fleets, FleetSettings

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
    """The matchmaking service on a bus, which it closes at shutdown."""

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


AHEAD_LIMIT = timedelta(minutes=5)
"""Largest difference by which a matchmaker's clock may be ahead of ours."""


class Accepted(BaseModel):
    """The report is in Redis."""

    accepted: bool = True
    duplicate: bool = Field(
        description="this report was sent with this idempotency key within ten minutes: no change"
    )
    superseded: bool = Field(description="a newer `observed_at` is known: recorded, not served")
    fleet: str
    id: str = Field(description="of the report on the demand stream; a duplicate has the first's")


class NotebookPrediction(BaseModel):
    """The part of the answer that the notebook's environment reads."""

    num_of_gameservers: float = Field(description="game servers needed now")


class DemandAnswer(BaseModel):
    """The newest demand, in the notebook's shape."""

    Prediction: NotebookPrediction
    fleet: str
    observed_at: datetime
    age_s: float = Field(description="seconds since `observed_at`")
    tickets_waiting: int | None = Field(None, description="left out where it was not reported")
    supply: Supply | None = Field(None, description="left out where it was not reported")


def demand_of(report: DemandReport, now: datetime) -> Demand:
    """The demand of a report; raises `BadInput` for a time too far ahead."""
    observed_at = report.observed_at or now
    if observed_at - now > AHEAD_LIMIT:
        raise BadInput(
            f"observed_at: {observed_at.isoformat()} is more than 5 minutes ahead of this "
            f"service's clock ({now.isoformat()}): set the sender's clock"
        )
    return Demand(
        fleet=report.fleet,
        demand=report.demand,
        observed_at=observed_at,
        source=report.source,
        seq=report.seq,
        tickets_waiting=report.tickets_waiting,
        oldest_ticket_age_s=report.oldest_ticket_age_s,
        supply=report.supply,
    )


def idempotency_key_of(report: DemandReport, header: str | None) -> IdempotencyKey | None:
    """The key from the body or the header; raises `BadInput` when they contradict each other."""
    field = report.idempotency_key
    if header is not None and field is not None and header != field:
        raise BadInput(
            "idempotency_key and the header Idempotency-Key differ: send one, or both the same"
        )
    key = field if field is not None else header
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_TEXT:
        raise BadInput(f"Idempotency-Key: use 1 to {MAX_TEXT} characters")
    return IdempotencyKey(key, _digest(report))


def _digest(report: DemandReport) -> str:
    """A digest of a report's values, however they were written: 84 and 84.0 are the same."""
    payload = report.model_dump_json(exclude={"idempotency_key"}, exclude_none=True)
    return hashlib.sha256(payload.encode()).hexdigest()


def accepted(report: DemandReport, receipt: DemandReceipt) -> Accepted:
    """The response to a report; raises `BadInput` if its key was used for another one."""
    if receipt.conflict:
        raise BadInput(
            "idempotency_key: it was used within ten minutes for another report "
            f"({receipt.id}), so nothing is recorded: use a new key for each report, and the "
            "same one only to send the same report again"
        )
    return Accepted(
        duplicate=receipt.duplicate,
        superseded=receipt.superseded,
        fleet=report.fleet,
        id=receipt.id,
    )


def demand_answer(demand: Demand, now: datetime) -> bytes:
    """A `DemandAnswer`, as JSON."""
    age_s = max((now - demand.observed_at).total_seconds(), 0.0)
    answer = DemandAnswer(
        Prediction=NotebookPrediction(num_of_gameservers=demand.demand),
        fleet=demand.fleet,
        observed_at=demand.observed_at,
        age_s=round(age_s, 3),
        tickets_waiting=demand.tickets_waiting,
        supply=demand.supply,
    )
    return answer.model_dump_json(exclude_none=True).encode()


def fresh(demand: Demand | None, settings: FleetSettings, now: datetime, fleet: str) -> Demand:
    """The demand, if it is known and fresh; raises `DemandMissing`."""
    if demand is None:
        raise DemandMissing(f"no demand is known for fleet {fleet!r}: POST /demand")
    age_s = (now - demand.observed_at).total_seconds()
    if age_s > settings.demand_ttl_s:
        raise DemandMissing(
            f"the newest demand of fleet {fleet!r} is {age_s:.0f} s old and valid for "
            f"{settings.demand_ttl_s:g} s: POST /demand, or set AUTOPILOT_DEMAND_TTL"
        )
    return demand
