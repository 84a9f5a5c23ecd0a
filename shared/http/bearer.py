"""Our own clients' tokens, also while they are changed."""

from collections.abc import Generator

import httpx

from shared.http.tokens import Roles, Tokens

REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


class Bearer(httpx.Auth):
    """Sends the first token of a role, and where it is refused each other one.

    Caller and service read the files of AUTOPILOT_TOKENS at different moments: what the one sends
    may be new to the other, or gone there. So files are read again before a request is given up.
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
    """What to send to a URL; nothing where the URL has a password of its own."""
    return None if httpx.URL(url).userinfo else Bearer(tokens, roles)


def is_under(base: str, url: str) -> bool:
    """Whether a URL is one of the service at a base address: only there its tokens may go."""
    ours, asked = httpx.URL(base), httpx.URL(url)
    folder = ours.path.rstrip("/") + "/"
    return (ours.scheme, ours.host, ours.port) == (asked.scheme, asked.host, asked.port) and (
        asked.path.startswith(folder)
    )
