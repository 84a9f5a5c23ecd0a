"""`GET /explain`: why a fleet's newest decision is what it is, and what callers are told of it."""

from collections.abc import Callable
from datetime import datetime

import orjson
from pydantic import Field
from starlette.requests import Request

from services.prediction.fleet_states import FleetStates
from services.prediction.recommendation import PredictionAnswer
from shared.bus import Bus
from shared.errors import DemandMissing, FleetInShadow
from shared.explanation import Explained, explained, steps_to_explain
from shared.http.app import HttpService, JsonBytes
from shared.http.problems import problems
from shared.http.requests import FLEET_PARAMETER, fleet_of
from shared.settings import Fleets


class Explanation(Explained):
    """A fleet's newest decision in full, in shadow too."""

    shadow: bool = Field(description="true: callers are told 503 instead")
    told: PredictionAnswer | None = Field(
        description="what callers are told now, or would be if the fleet were live; it is no "
        "decision's where its `fallback` says so"
    )
    reason: str | None = Field(description="why callers are told 503")


def add_explain_route(
    app: HttpService, bus: Bus, states: FleetStates, fleets: Fleets, clock: Callable[[], datetime]
) -> None:
    """Add the route; it reads Redis, since nobody scales by it."""

    async def explain(request: Request) -> JsonBytes:
        """Why a fleet's newest decision is what it is: inputs, guards, rule, what to expect."""
        settings = fleets[fleet := fleet_of(request)]
        why = await bus.explanation(fleet)
        if why is None:
            raise DemandMissing(
                f"nothing is decided for fleet {fleet!r} yet: post demand, and look at the "
                "environment service"
            )
        steps = await bus.recorded_steps(fleet, steps_to_explain(settings.parameters))
        content = explained(why, steps, settings).model_dump(mode="json")
        shadow = states.in_shadow(fleet)
        told, reason = None, str(FleetInShadow(fleet)) if shadow else None
        try:
            told = orjson.Fragment(states.encoded(fleet, clock(), shadow=True))
        except DemandMissing as error:
            reason = str(error)
        return JsonBytes(orjson.dumps(content | {"shadow": shadow, "told": told, "reason": reason}))

    app.add_api_route(
        "/explain",
        explain,
        response_model=Explanation,
        responses=problems(404, 503),
        openapi_extra={"parameters": [FLEET_PARAMETER]},
        tags=["prediction"],
    )
