"""Access to an HTTP service: tokens by role, and the host names that it accepts."""

import base64
import binascii
import re
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import BadSetting
from shared.http.hosts import Hosts, is_loopback
from shared.http.problems import problem
from shared.http.tokens import OPERATORS, READERS, Roles, Tokens
from shared.redaction import redact
from shared.settings import Settings

OPEN_PATHS = frozenset({("GET", "/healthz"), ("GET", "/readyz")})
"""Routes without a token and with any host name, for probes."""
READING = frozenset({"GET", "HEAD"})
SHOWN_HOST = 100

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens and host names that a service accepts; without tokens, everyone has access."""

    tokens: Tokens = field(default_factory=Tokens)
    hosts: Hosts = field(default_factory=Hosts)

    def log(self) -> None:
        """Log whether the service requires tokens."""
        if self.tokens:
            _log.info("access_by_token", **self.tokens.counts())
        else:
            _log.warning(
                "access_is_open",
                advice="everyone who reaches this service may use it: set AUTOPILOT_API_TOKEN or "
                "AUTOPILOT_TOKENS",
            )


def tokens_of(settings: Settings) -> Tokens:
    """The tokens in the settings; raises `BadSetting` if AUTOPILOT_TOKENS can't be used."""
    secrets = (settings.api_token, settings.agones_token)
    everything, agones = (
        None if secret is None else secret.get_secret_value() for secret in secrets
    )
    return Tokens(everything, agones, settings.tokens)


def access_of(settings: Settings) -> Access:
    """The access to a service that listens on AUTOPILOT_HOST.

    Raises `BadSetting` if other machines could reach it without a token, unless
    AUTOPILOT_OPEN_ACCESS allows that.
    """
    tokens = tokens_of(settings)
    if not (tokens or settings.open_access or is_loopback(settings.host)):
        raise BadSetting(
            f"AUTOPILOT_HOST={settings.host} is reached from other machines, and no token is set: "
            "set AUTOPILOT_API_TOKEN or AUTOPILOT_TOKENS, or AUTOPILOT_OPEN_ACCESS=1 to let "
            "everybody in"
        )
    return Access(tokens, Hosts((*settings.allowed_hosts, settings.host.lower())))


def roles_by_default(methods: Iterable[str]) -> Roles:
    """The default roles of a route: readers for GET and HEAD, else operators."""
    return READERS if READING.issuperset(methods) else OPERATORS


class Guarded(NamedTuple):
    """A route and its roles."""

    method: str
    path: str
    pattern: re.Pattern[str] | None
    """For a path with parameters."""
    roles: Roles


class Guard:
    """ASGI middleware that checks host and token, and answers 421, 401 or 403 if they fail.

    The token is a bearer token, or the password in a URL, for clients that can't set headers:
    ``https://user:token@host/...``.
    """

    def __init__(self, app: ASGIApp, access: Access, routes: Iterable[Guarded]) -> None:
        self._app = app
        self._tokens = access.tokens
        self._allows = access.hosts.allows
        self._exact: dict[tuple[str, str], Roles] = {}
        self._patterns: list[Guarded] = []
        for route in routes:
            if route.pattern is None:
                self._exact[route.method, route.path] = route.roles
            else:
                self._patterns.append(route)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        return (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        method, path = at = scope["method"], scope["path"]
        if at in OPEN_PATHS:
            return None
        authorization = b""
        for name, value in scope["headers"]:
            if name == b"host":
                if not self._allows(value):
                    return _misdirected(value)
            elif name == b"authorization":
                authorization = value
        if not self._tokens:
            return None
        held = self._tokens.roles_of(_token_in(authorization))
        if not held:
            return _unknown()
        wanted = self._wanted(method, path)
        return None if held & wanted else _forbidden(held, wanted)

    def _wanted(self, method: str, path: str) -> Roles:
        roles = self._exact.get((method, path))
        if roles is not None:
            return roles
        for route in self._patterns:
            if route.method == method and route.pattern and route.pattern.match(path):
                return route.roles
        return roles_by_default((method,))


def _misdirected(host: bytes) -> Response:
    shown = redact(repr(host[:SHOWN_HOST].decode("latin-1")))
    return problem(
        421,
        f"the request was sent to the host {shown}, which is no name of this service: use its "
        "address, or add the name to AUTOPILOT_ALLOWED_HOSTS",
    )


def _unknown() -> Response:
    return problem(
        401,
        "send the header 'Authorization: Bearer <token>' with a token of this service "
        "(AUTOPILOT_API_TOKEN, or a line of a file in AUTOPILOT_TOKENS); a webhook has its token "
        "in the address, https://agones:<token>@...",
        {"WWW-Authenticate": "Bearer"},
    )


def _forbidden(held: Roles, wanted: Roles) -> Response:
    return problem(
        403,
        f"this requires a token of the role {_listed(wanted)}, and yours is of the role "
        f"{_listed(held)}",
    )


def _listed(roles: Roles) -> str:
    return " or ".join(sorted(roles))


def _token_in(authorization: bytes) -> bytes:
    """The bearer token of a header, or the password of basic authentication (RFC 7617)."""
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return token
    if scheme.lower() == b"basic":
        with suppress(binascii.Error):
            return base64.b64decode(token, validate=True).partition(b":")[2]
    return b""
