"""HTTP errors as `application/problem+json` (RFC 9457); the detail says what to do."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, TypeVar

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shared.errors import (
    QUOTED,
    AutopilotError,
    BadInput,
    BusAway,
    DemandMissing,
    FleetInShadow,
    PolicyError,
    PolicyMissing,
    PredictionStale,
    StoreAway,
    UnknownFleet,
    quoted,
)
from shared.redaction import redact

MEDIA_TYPE = "application/problem+json"
ERRORS_SHOWN = 3
DETAIL_LIMIT = 2_000
"""Most characters of a detail, which may repeat text from the request."""
PATH_SHOWN = 200
"""Most characters of a path in the log."""

_RETRY = {"Retry-After": "1"}
_STATUS: dict[type[AutopilotError], int] = {
    BadInput: 422,
    UnknownFleet: 404,
    BusAway: 503,
    StoreAway: 503,
    DemandMissing: 503,
    PredictionStale: 503,
    FleetInShadow: 503,
    PolicyMissing: 404,
    PolicyError: 503,
}
_DETAIL = {
    404: "there is nothing at this address: GET /docs lists what there is",
    405: "this address does not take this method: GET /docs lists what it takes",
}

M = TypeVar("M", bound=BaseModel)
_log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="what the status means", examples=["Unprocessable Content"])
    status: int = Field(description="HTTP status", examples=[422])
    detail: str = Field(
        description="what is wrong, and what to do",
        examples=["num_of_gameservers: Input should be greater than or equal to 0"],
    )


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail if len(detail) <= DETAIL_LIMIT else f"{detail[:DETAIL_LIMIT]}...",
    }
    return Response(orjson.dumps(content), status, headers, MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these errors of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def parse(
    message: type[M], content: bytes, other_fields: Literal["forbid", "allow"] = "forbid"
) -> M:
    """Parse a message from JSON; raises `BadInput` with a sentence that names the fields."""
    try:
        return message.model_validate_json(content, extra=other_fields)
    except ValidationError as error:
        raise BadInput(_sentence(error.errors(include_url=False))) from None


def problem_of(error: Exception, path: str) -> Response:
    """The response for any error; an unexpected one is logged."""
    if isinstance(error, AutopilotError):
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
        headers = _RETRY if isinstance(error, BusAway | StoreAway) else None
        return problem(status, redact(str(error)), headers)
    if isinstance(error, RequestValidationError):
        return problem(422, redact(_sentence(error.errors())))
    if isinstance(error, HTTPException):
        plain = error.detail == HTTPStatus(error.status_code).phrase
        detail = _DETAIL.get(error.status_code, error.detail) if plain else error.detail
        return problem(error.status_code, redact(detail), error.headers)
    if isinstance(error, ClientDisconnect):
        return problem(400, "the request's body is incomplete")
    _log.error("request_failed", path=path[:PATH_SHOWN], exc_info=error)
    return problem(500, "the service failed on this request: its log has the reason")


def add_problem_handlers(app: FastAPI) -> None:
    """Return every error of an app as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_of(error, request.url.path)

    for kind in (AutopilotError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _sentence(errors: Sequence[Any]) -> str:
    """Pydantic's errors as one line."""
    shown = [_described(error) for error in errors[:ERRORS_SHOWN]]
    if len(errors) > ERRORS_SHOWN:
        shown.append(f"and {len(errors) - ERRORS_SHOWN} more")
    return "; ".join(shown)


def _described(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "body"
    if len(field) > QUOTED:
        field = quoted(field)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such field; GET /docs lists them"
    return f"{field}: {message}"
