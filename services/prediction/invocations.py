"""A SageMaker container's `/invocations`: observations in, actions out."""

import math
from typing import Any

import orjson
from pydantic import BaseModel, Field

from shared.core.parameters import FleetParameters
from shared.core.recommendation import whole_servers
from shared.errors import BadInput, PolicyCorrupt
from shared.messages import MAX_SERVERS_EVER
from shared.policies import Policy

ROWS_LIMIT = 1_000
"""Observations in one request: about 10 ms of the event loop."""
BODY_LIMIT = 1024 * 1024
_FORMS = ("instances", "inputs")


class Invocation(BaseModel):
    """Actions for observations, in their order."""

    predictions: list[list[float]] = Field(description="an action a row; 1.0 is `action_factor`")
    num_of_gameservers: list[int] = Field(description="servers a row: whole, within the limits")
    policy_version: str


def body_schema() -> dict[str, Any]:
    """The JSON schema of a body, for OpenAPI."""
    number = {"type": "number", "minimum": -MAX_SERVERS_EVER, "maximum": MAX_SERVERS_EVER}
    row = {
        "type": "array",
        "items": number,
        "description": "demands, then targets, oldest first, in servers",
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


def observations(content: bytes, parameters: FleetParameters) -> list[list[float]]:
    """The rows of a body, of the right length and finite; raises `BadInput`."""
    fields = parameters.observation_fields
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}; {_expected(fields)}") from None
    rows = _rows(body)
    if rows is None:
        raise BadInput(f"the body has none of the known forms; {_expected(fields)}")
    if len(rows) > ROWS_LIMIT:
        raise BadInput(f"the body has {len(rows)} observations: send at most {ROWS_LIMIT}")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(fields):
            found = f"{len(row)} numbers" if isinstance(row, list) else type(row).__name__
            raise BadInput(f"an observation has the wrong length ({found}); {_expected(fields)}")
        # bool is an int to isinstance; a type set is also the quickest check.
        if not {*map(type, row)} <= {int, float}:
            raise BadInput(f"an observation has something else than numbers; {_expected(fields)}")
        if max(row) > MAX_SERVERS_EVER or min(row) < -MAX_SERVERS_EVER:
            raise BadInput(
                f"an observation has a number beyond {MAX_SERVERS_EVER} servers; "
                f"{_expected(fields)}"
            )
    return rows


def invoke(policy: Policy, rows: list[list[float]], parameters: FleetParameters) -> bytes:
    """The `Invocation` of a policy on observations, encoded."""
    actions = [policy.action(row) for row in rows]
    if not all(map(math.isfinite, actions)):
        raise PolicyCorrupt(
            f"policy {policy.version} has no finite answer to this: roll back to another version"
        )
    factor = parameters.action_factor
    return orjson.dumps(
        {
            "predictions": [[action] for action in actions],
            "num_of_gameservers": [whole_servers(a * factor, parameters) for a in actions],
            "policy_version": policy.version,
        }
    )


def _rows(body: Any) -> list[Any] | None:
    """The observations in any of the forms, unchecked, or None for another form."""
    if isinstance(body, list):
        return [body]
    if not isinstance(body, dict) or len(body) != 1:
        return None
    (form, value), *_ = body.items()
    if form == "observation":
        return [value]
    return value if form in _FORMS and isinstance(value, list) and value else None


def _expected(fields: tuple[str, ...]) -> str:
    return (
        f"send [{len(fields)} numbers], or them as a row in {{'instances': [[..]]}} or "
        f"{{'inputs': [[..]]}}, or {{'observation': [..]}}: {', '.join(fields)}"
    )
