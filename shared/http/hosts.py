"""The host names that a service accepts: a defence against DNS rebinding."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

LONGEST_HEADER = 300
"""Bytes; a name has at most 253."""
REMEMBERED = 256
INSIDE = (".svc", ".cluster.local", ".localhost", ".internal")
"""Suffixes of names that are not public: of Kubernetes, of this machine, of private networks."""
ANY = "*"

_PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Hosts:
    """Checks the `Host` of requests.

    Always accepted: IP addresses, names of one label (such as `localhost`, `prediction`), and names
    with a suffix in `INSIDE`. In addition, the given names; ``*.example.com`` stands for every name
    below it, and ``*`` for every name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = frozenset(names)
        self._names = given
        self._ends = (*INSIDE, *(name[1:] for name in given if name.startswith("*.")))
        self._any = ANY in given
        self._remembered = lru_cache(REMEMBERED)(self._allows)

    def allows(self, header: bytes) -> bool:
        """Whether the value of a `Host` header is accepted."""
        return len(header) <= LONGEST_HEADER and self._remembered(header)

    def _allows(self, header: bytes) -> bool:
        if self._any or not header:
            return True
        host = header.decode("latin-1").lower()
        if host.startswith("["):
            return _is_address(host[1:].partition("]")[0])
        name = host.partition(":")[0].removesuffix(".")
        return (
            "." not in name or name in self._names or name.endswith(self._ends) or _is_address(name)
        )


def host_fault(name: str) -> str | None:
    """Why a text is not a valid host name to allow; None if it is."""
    if name == ANY or _PATTERN.fullmatch(name):
        return None
    return f"{name!r} is not a host name: write names without a port, as in game.example.com,*.lan"


def is_loopback(host: str) -> bool:
    """Whether this is an address that only this machine can reach."""
    return host.lower() == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
