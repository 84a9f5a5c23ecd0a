"""`GET /explain`: the explanation of a fleet's newest decision, and what callers get of it."""

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
    """The explanation of a fleet's newest decision, also in shadow mode."""

    shadow: bool = Field(description="true: callers get 503 instead")
    told: PredictionAnswer | None = Field(
        description="what callers get now, or would get if the fleet were live; where its "
        "`fallback` is set, it does not come from this decision"
    )
    reason: str | None = Field(description="the reason why callers get 503")


def add_explain_route(
    app: HttpService, bus: Bus, states: FleetStates, fleets: Fleets, clock: Callable[[], datetime]
) -> None:
    """Add the route. It reads Redis: it is for operators, and not called at a high rate."""

    async def explain(request: Request) -> JsonBytes:
        """The explanation of a fleet's newest decision: inputs, guards, rule, expected error."""
        settings = fleets[fleet := fleet_of(request)]
        why = await bus.explanation(fleet)
        if why is None:
            raise DemandMissing(
                f"there is no decision for fleet {fleet!r} yet: post demand, and check the "
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
