"""The webhook of Agones' FleetAutoscaler: a review of a fleet in, its number of servers out.

How Agones' controller treats a response (pkg/fleetautoscalers of Agones):

- Any status but 200 is an error, after which a `Chain` policy takes its next entry. So is no
  response within 15 s.
- A 200 without `response` is a null pointer, which crashes the controller.
- ``scale: false`` sets the fleet to the servers that it has now, which cancels a scale-up in
  progress. So to hold, the same number is returned again.
- `replicas` is set as it is: the limits in the FleetAutoscaler apply to its Buffer only.
- Allocated servers are never removed. So the fleet's `max_servers` is kept even where more are
  allocated: no player is disconnected, and a server that becomes free is not replaced.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from services.prediction.fleet_states import FleetStates
from services.prediction.supply_recorder import Supplies
from shared.http.app import HttpService, JsonBytes
from shared.http.problems import parse, problems
from shared.http.requests import FLEET_PARAMETER, check_json, fleet_named, read_body
from shared.http.tokens import WEBHOOKS
from shared.messages import FleetSupply, ServerCount, Supply
from shared.settings import Fleets

PATH = "/agones/scale"
FLEET_ANNOTATION = "autopilot.gameservers/fleet"
"""Annotation with our fleet's name, where the Agones fleet has another. The controller sends
annotations since 1.48 (feature gate FleetAutoscaleRequestMetaData)."""
REVIEW_LIMIT = 640 * 1024
"""Bytes. Annotations may have 256 KiB, which take more than twice that as JSON within JSON, and
the annotation of `kubectl apply` contains the whole fleet."""

# The limits of Kubernetes' API, in characters; for all annotations together in bytes.
NAME_LENGTH = 253
"""A DNS subdomain, as for names of objects. UIDs, which have no limit, have 36."""
NAMESPACE_LENGTH = 63
KEY_LENGTH = 253 + 1 + 63
"""Prefix, slash and name of a label or an annotation."""
LABEL_LENGTH = 63
ANNOTATIONS_LIMIT = 256 * 1024

Name = Annotated[str, Field(max_length=NAME_LENGTH)]
Key = Annotated[str, Field(max_length=KEY_LENGTH)]


def _not_too_large(annotations: dict[str, str]) -> dict[str, str]:
    size = sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items())
    if size > ANNOTATIONS_LIMIT:
        raise ValueError(f"they have {size} bytes: Kubernetes allows {ANNOTATIONS_LIMIT}")
    return annotations


class _FromAgones(BaseModel):
    """Known fields and those of a later Agones: the response repeats the request as it came."""

    model_config = ConfigDict(frozen=True, extra="allow", alias_generator=to_camel)


class FleetStatus(_FromAgones):
    """Game servers as Agones counts them."""

    replicas: ServerCount = Field(description="all servers, in any state")
    ready_replicas: ServerCount
    reserved_replicas: ServerCount = 0
    allocated_replicas: ServerCount


class FleetAutoscaleRequest(_FromAgones):
    """The fleet and its status."""

    uid: Name
    name: Name
    namespace: Annotated[str, Field(max_length=NAMESPACE_LENGTH)] = ""
    annotations: Annotated[dict[Key, str], AfterValidator(_not_too_large)] | None = None
    labels: dict[Key, Annotated[str, Field(max_length=LABEL_LENGTH)]] | None = None
    status: FleetStatus


class FleetAutoscaleResponse(_FromAgones):
    """The number of servers to set."""

    uid: Name = Field(description="the request's uid")
    scale: bool = Field(description="always true: false would cancel a scale-up in progress")
    replicas: ServerCount = Field(description="servers to have")


class FleetAutoscaleReview(_FromAgones):
    """A review, with a request from Agones or with our response."""

    request: FleetAutoscaleRequest
    response: FleetAutoscaleResponse | None = None


_DOCUMENTED: dict[str, Any] = {
    "methods": ["POST"],
    "response_model": FleetAutoscaleReview,
    "roles": WEBHOOKS,
    "responses": problems(404, 413, 415, 422, 503),
    "tags": ["autoscalers"],
}
_NAMED: dict[str, Any] = FLEET_PARAMETER | {
    "description": f"the fleet's name; without it the annotation {FLEET_ANNOTATION}, or else the "
    "name of the Agones fleet",
    "schema": {"type": "string"},
}
_IN_PATH = _NAMED | {"in": "path", "required": True}
_REVIEW: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/FleetAutoscaleReview"}}
    },
}


def add_agones_routes(
    app: HttpService,
    states: FleetStates,
    fleets: Fleets,
    supplies: Supplies,
    clock: Callable[[], datetime],
) -> None:
    """Add the webhook: with the fleet in the query, or in the path for a `service`."""
    scale = _webhook(states, fleets, supplies, clock)
    for path, named in ((PATH, _NAMED), (f"{PATH}/{{fleet}}", _IN_PATH)):
        extra = {"parameters": [named], "requestBody": _REVIEW}
        app.add_api_route(path, scale, openapi_extra=extra, **_DOCUMENTED)


def _webhook(
    states: FleetStates, fleets: Fleets, supplies: Supplies, clock: Callable[[], datetime]
) -> Callable[[Request], Awaitable[JsonBytes]]:
    async def scale(request: Request) -> JsonBytes:
        """The number of servers for an Agones fleet; 503 where its own policy should decide."""
        check_json(request)
        review = parse(FleetAutoscaleReview, await read_body(request, REVIEW_LIMIT), "allow")
        fleet = _fleet_of(request, review.request)
        _ = fleets[fleet]
        now = clock()
        supply = FleetSupply(fleet=fleet, at=now, supply=_supply(review.request.status))
        supplies.take(supply)
        states.update(supply)
        servers = states.to_follow(fleet, now).Prediction.num_of_gameservers
        response = FleetAutoscaleResponse(uid=review.request.uid, scale=True, replicas=servers)
        answer = review.model_copy(update={"response": response})
        return JsonBytes(answer.model_dump_json(by_alias=True, exclude_unset=True).encode())

    return scale


def _fleet_of(request: Request, review: FleetAutoscaleRequest) -> str:
    annotated = (review.annotations or {}).get(FLEET_ANNOTATION)
    return fleet_named(request) or annotated or review.name


def _supply(status: FleetStatus) -> Supply:
    up = status.ready_replicas + status.allocated_replicas + status.reserved_replicas
    return Supply(
        allocated=status.allocated_replicas,
        ready=status.ready_replicas,
        reserved=status.reserved_replicas,
        starting=max(0, status.replicas - up),
    )
