"""Who may call an HTTP service: a token for everything but what operators and probes ask."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.problems import problem

OPEN_PATHS = frozenset(
    ("GET", path)
    for path in (
        "/healthz",
        "/readyz",
        "/metrics",
        "/ping",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
    )
)
"""What needs no token."""


class Access:
    """ASGI middleware that wants a token for everything but the open paths.

    It is the bearer token, or under a path in `passwords` also that one. What can send no header
    of its own has it in the address that it calls: ``https://user:token@host/...``.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        open_paths: frozenset[tuple[str, str]],
        passwords: Mapping[str, str],
    ) -> None:
        self._app = app
        self._tokens = () if token is None else (token.encode(),)
        self._open_paths = open_paths
        self._passwords = {path: password.encode() for path, password in passwords.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._admits(scope):
            await self._app(scope, receive, send)
            return
        response = problem(
            401,
            "send the header 'Authorization: Bearer <token>' with the AUTOPILOT_API_TOKEN of this "
            "service; a webhook has its token in the address, https://agones:<token>@...",
            {"WWW-Authenticate": "Bearer"},
        )
        await response(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        path = scope["path"]
        if (scope["method"], path) in self._open_paths:
            return True
        own = [token for start, token in self._passwords.items() if path.startswith(start)]
        wanted = (*self._tokens, *own)
        return not wanted or any(hmac.compare_digest(_token_in(scope), token) for token in wanted)


def _token_in(scope: Scope) -> bytes:
    """The bearer token of a request, or the password of an address with one (RFC 7617)."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return bytes(token)
            if scheme.lower() == b"basic":
                with suppress(binascii.Error):
                    return base64.b64decode(token, validate=True).partition(b":")[2]
    return b""
