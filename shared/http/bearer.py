"""The tokens of our own clients, which may be rotated at any time."""

from collections.abc import Generator

import httpx

from shared.http.tokens import Roles, Tokens

REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


class Bearer(httpx.Auth):
    """Sends the first token of a role, and each other one if that is refused.

    Caller and service read the files of AUTOPILOT_TOKENS at different times, so one may have a
    token that the other does not have yet, or any more. So files are read again before giving up.
    """

    def __init__(self, tokens: Tokens, roles: Roles) -> None:
        self._tokens = tokens
        self._roles = roles

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        tried: set[str] = set()
        while untried := [t for t in self._tokens.with_any(self._roles) if t not in tried]:
            tried.add(untried[0])
            request.headers["Authorization"] = f"Bearer {untried[0]}"
            response = yield request
            if response.status_code not in REFUSED:
                return
            self._tokens.renew()
        if not tried:
            yield request


def bearer_for(url: str, tokens: Tokens, roles: Roles) -> Bearer | None:
    """The authentication for a URL; None if the URL has a password."""
    return None if httpx.URL(url).userinfo else Bearer(tokens, roles)


def is_under(base: str, url: str) -> bool:
    """Whether a URL belongs to the service at a base URL, the only one to send its tokens to."""
    ours, other = httpx.URL(base), httpx.URL(url)
    folder = ours.path.rstrip("/") + "/"
    return (ours.scheme, ours.host, ours.port) == (other.scheme, other.host, other.port) and (
        other.path.startswith(folder)
    )
