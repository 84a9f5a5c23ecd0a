"""Who may call an HTTP service: tokens by role, and the names that it answers for."""

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
"""What needs no token, by whatever name it is called: probes have neither."""
READING = frozenset({"GET", "HEAD"})
SHOWN_HOST = 100

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a service, and by which names; without tokens whoever reaches it."""

    tokens: Tokens = field(default_factory=Tokens)
    hosts: Hosts = field(default_factory=Hosts)

    def tell(self) -> None:
        """Log what opens the service."""
        if self.tokens:
            _log.info("access_by_token", **self.tokens.counts())
        else:
            _log.warning(
                "access_is_open",
                advice="whoever reaches this service may use it: set AUTOPILOT_API_TOKEN or "
                "AUTOPILOT_TOKENS",
            )


def tokens_of(settings: Settings) -> Tokens:
    """The tokens that are set; raises `BadSetting` where AUTOPILOT_TOKENS can't be used."""
    secrets = (settings.api_token, settings.agones_token)
    everything, agones = (
        None if secret is None else secret.get_secret_value() for secret in secrets
    )
    return Tokens(everything, agones, settings.tokens)


def access_of(settings: Settings) -> Access:
    """Of a service that listens on AUTOPILOT_HOST.

    Raises `BadSetting` where others than this machine would reach it without a token, unless
    AUTOPILOT_OPEN_ACCESS says so.
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
    """Who may use a route that does not say: readers, where it can only be read."""
    return READERS if READING.issuperset(methods) else OPERATORS


class Guarded(NamedTuple):
    """A route, and who may use it."""

    method: str
    path: str
    pattern: re.Pattern[str] | None
    """Of a path with parameters."""
    roles: Roles


class Guard:
    """ASGI middleware that lets through who may: answers 421, 401 and 403 to all others.

    The token is a bearer token, or the password of an address: what can send no header of its own
    has it there, ``https://user:token@host/...``.
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
        f"this wants a token of the role {_listed(wanted)}, and yours is of the role "
        f"{_listed(held)}",
    )


def _listed(roles: Roles) -> str:
    return " or ".join(sorted(roles))


def _token_in(authorization: bytes) -> bytes:
    """The bearer token of a header, or the password of an address with one (RFC 7617)."""
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return token
    if scheme.lower() == b"basic":
        with suppress(binascii.Error):
            return base64.b64decode(token, validate=True).partition(b":")[2]
    return b""
