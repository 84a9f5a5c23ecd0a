"""A SageMaker container's `/invocations`: observations in, actions out."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from types import NoneType
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from shared.core.fields import from_notebook, notebook_fields
from shared.core.parameters import FleetParameters
from shared.core.recommendation import whole_servers
from shared.errors import BadInput, PolicyCorrupt
from shared.http.app import HttpService, JsonBytes
from shared.http.health import Health
from shared.http.problems import problems
from shared.http.requests import read_body
from shared.http.tokens import READERS
from shared.messages import MAX_SERVERS_EVER
from shared.policies.runtime import Policy, first_action

ROWS_LIMIT = 1_000
"""Most observations in one request: about 10 ms of the event loop."""
BODY_LIMIT = 1024 * 1024
_FORMS = ("instances", "inputs")
_JSON = "application/json"
_UNSAID = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Content types that clients such as boto3 and curl send by default."""


class Invocation(BaseModel):
    """Actions for observations, in their order."""

    predictions: list[list[float]] = Field(description="an action per row; 1.0 is `action_factor`")
    num_of_gameservers: list[int] = Field(description="servers per row: whole, within the limits")
    policy_version: str


def body_schema() -> dict[str, Any]:
    """The JSON schema of a request body, for OpenAPI."""
    number = {"type": "number", "minimum": -MAX_SERVERS_EVER, "maximum": MAX_SERVERS_EVER}
    row = {
        "type": "array",
        "items": {"anyOf": [number, {"type": "null"}]},
        "description": "demands, then targets, oldest first, in servers; or the policy's own "
        "fields, null where history is too short",
        "example": [50.0] * 10,
    }
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": ROWS_LIMIT}
    forms = {"instances": rows, "inputs": rows, "observation": row}
    return {
        "oneOf": [
            row,
            *(
                {
                    "type": "object",
                    "properties": {name: schema},
                    "required": [name],
                    "additionalProperties": False,
                }
                for name, schema in forms.items()
            ),
        ]
    }


def check_content_type(header: str) -> None:
    """Raise a 415 for a content type other than JSON."""
    media_type = header.partition(";")[0].strip().lower()
    if media_type != _JSON and media_type not in _UNSAID:
        raise HTTPException(415, f"the body is said to be {media_type!r}: send {_JSON}")


def observations(
    content: bytes, fields: tuple[str, ...], parameters: FleetParameters
) -> list[list[float]]:
    """The rows of a request body, as observations with `fields`; raises `BadInput`.

    A row has the policy's own fields, null where history is too short; or the notebook's
    observation, for which all other fields are NaN.
    """
    notebook = notebook_fields(parameters.history_len)
    allowed = {int, float} if fields == notebook else {int, float, NoneType}
    expected = _expected(fields, notebook)
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}; {expected}") from None
    rows = _rows(body)
    if rows is None:
        raise BadInput(f"the body has none of the known forms; {expected}")
    if len(rows) > ROWS_LIMIT:
        raise BadInput(f"the body has {len(rows)} observations: send at most {ROWS_LIMIT}")
    for row in rows:
        if not isinstance(row, list) or len(row) not in (len(fields), len(notebook)):
            found = f"{len(row)} numbers" if isinstance(row, list) else type(row).__name__
            raise BadInput(f"an observation has the wrong length ({found}); {expected}")
        # For isinstance, bool is an int; a set of types is also the fastest check.
        kinds = {*map(type, row)}
        if not kinds <= allowed:
            raise BadInput(f"an observation has something else than numbers; {expected}")
        if NoneType in kinds and not _enough(row, fields, notebook):
            raise BadInput(f"an observation has null for a number that is always known; {expected}")
        numbers = [value for value in row if value is not None] if NoneType in kinds else row
        if max(numbers) > MAX_SERVERS_EVER or min(numbers) < -MAX_SERVERS_EVER:
            raise BadInput(
                f"an observation has a number beyond {MAX_SERVERS_EVER} servers; {expected}"
            )
    return [_of_fields(row, fields) for row in rows]


def invoke(policy: Policy, rows: list[list[float]], parameters: FleetParameters) -> bytes:
    """The `Invocation` of a policy on observations, as JSON; raises `PolicyCorrupt`."""
    actions = [first_action(policy, row) for row in rows]
    if not all(map(math.isfinite, actions)):
        raise PolicyCorrupt(
            f"policy {policy.version} has no finite action for this: roll back to another version"
        )
    factor = parameters.action_factor
    return orjson.dumps(
        {
            "predictions": [[one] for one in actions],
            "num_of_gameservers": [whole_servers(one * factor, parameters) for one in actions],
            "policy_version": policy.version,
        }
    )


def _enough(row: list[float | None], fields: tuple[str, ...], notebook: tuple[str, ...]) -> bool:
    """Whether no field of the notebook's observation is null."""
    return len(row) == len(fields) and not any(
        value is None and name in notebook for name, value in zip(fields, row, strict=True)
    )


def _of_fields(row: list[float | None], fields: tuple[str, ...]) -> list[float]:
    if len(row) != len(fields):
        return from_notebook([value for value in row if value is not None], fields)
    return [math.nan if value is None else value for value in row]


def _rows(body: Any) -> list[Any] | None:
    """The observations in one of the known forms, unchecked; None for another form."""
    if isinstance(body, list):
        return [body]
    if not isinstance(body, dict) or len(body) != 1:
        return None
    (form, value), *_ = body.items()
    if form == "observation":
        return [value]
    return value if form in _FORMS and isinstance(value, list) and value else None


@cache
def _expected(fields: tuple[str, ...], notebook: tuple[str, ...]) -> str:
    expected = (
        f"send [{len(notebook)} numbers], or them as a row in {{'instances': [[..]]}} or "
        f"{{'inputs': [[..]]}}, or {{'observation': [..]}}: {', '.join(notebook)}"
    )
    if fields == notebook:
        return expected
    return f"{expected}; or the {len(fields)} that the policy sees: {', '.join(fields)}"


Serving = Callable[[Request], tuple[Policy, FleetParameters]]
"""The policy for a request, and the parameters of its fleet."""


def add_hosting_routes(
    app: HttpService, serving: Serving, parameters: Sequence[dict[str, Any]] = ()
) -> None:
    """Add `/invocations` and `/ping`; `parameters` document what `serving` reads from a request."""

    async def invocations(request: Request) -> JsonBytes:
        """Run a policy on observations, as a SageMaker container does."""
        policy, of_fleet = serving(request)
        check_content_type(request.headers.get("content-type", ""))
        rows = observations(await read_body(request, BODY_LIMIT), policy.fields, of_fleet)
        return JsonBytes(invoke(policy, rows, of_fleet))

    async def ping(_: Request) -> JsonBytes:
        """A SageMaker container's health: it is ready for `/invocations`."""
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
