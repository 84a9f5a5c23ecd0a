"""Reads requests: the fleet, flags, and the body within limits."""

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from shared.errors import BadInput, quoted

BODY_LIMIT = 16 * 1024
"""Most bytes of a request's body, unless a route has another limit."""
QUERY_LIMIT = 1024
"""Most bytes of a query. Parsed queries are cached, so a long one would stay in memory."""
DEFAULT_FLEET = "default"
FLEET_PARAMETER: dict[str, Any] = {
    "name": "fleet",
    "in": "query",
    "description": "the fleet's name",
    "schema": {"type": "string", "default": DEFAULT_FLEET},
}
SHADOW_PARAMETER: dict[str, Any] = {
    "name": "shadow",
    "in": "query",
    "description": "true: also the recommendation for a fleet in shadow mode",
    "schema": {"type": "boolean", "default": False},
}
JSON = "application/json"


def fleet_of(request: Request) -> str:
    """The fleet that a request names, else `default`."""
    named = fleet_named(request)
    return DEFAULT_FLEET if named is None else named


def fleet_named(request: Request) -> str | None:
    """The fleet that a request names in its path or query, if it does."""
    in_path = request.scope["path_params"].get("fleet")
    return in_path or _fleet_in(_query_of(request))


def _query_of(request: Request) -> bytes:
    query: bytes = request.scope["query_string"]
    if len(query) > QUERY_LIMIT:
        raise BadInput(f"the query has {len(query)} bytes: send at most {QUERY_LIMIT}")
    return query


@lru_cache(maxsize=4096)
def _fleet_in(query: bytes) -> str | None:
    named = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("fleet")
    return named[-1] if named else None


def shadow_of(request: Request) -> bool:
    """Whether a request accepts a recommendation in shadow mode; raises `BadInput`."""
    query = _query_of(request)
    return b"shadow" in query and _shadow_in(query)


@lru_cache(maxsize=4096)
def _shadow_in(query: bytes) -> bool:
    value = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("shadow", ["false"])[-1]
    if value not in ("true", "false"):
        raise BadInput(f"shadow is {quoted(value)}: write shadow=true, or leave it out")
    return value == "true"


def check_json(request: Request) -> None:
    """Raise a 415 unless the content type is JSON.

    A web page of another origin can post all other types without a CORS preflight.
    """
    said = request.headers.get("content-type", "")
    if said.partition(";")[0].strip().lower() != JSON:
        raise HTTPException(
            415, f"send the header 'Content-Type: {JSON}'; the body is said to be {said[:100]!r}"
        )


async def read_body(request: Request, limit: int = BODY_LIMIT) -> bytes:
    """The body of a request; raises a 413 as soon as more than `limit` bytes were received."""
    receive = request.receive
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise HTTPException(413, f"the body is over {limit} bytes: send less in one request")
        if not message.get("more_body", False):
            return body
