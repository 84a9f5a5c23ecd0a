"""The names that a service answers for: a web page can have any other name mean this machine."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

LONGEST_HEADER = 300
"""Bytes; a name has at most 253."""
REMEMBERED = 256
INSIDE = (".svc", ".cluster.local", ".localhost", ".internal")
"""Ends of names that no public name has: Kubernetes', those of this machine, private ones."""
ANY = "*"

_PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Hosts:
    """Tells by a request's `Host` whether it was meant for us.

    Always: IP addresses, names of one label (such as `localhost`, `prediction`), names that end
    as in `INSIDE`. Beside these the names that are given; ``*.example.com`` is every name under
    it, and ``*`` every name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = frozenset(names)
        self._names = given
        self._ends = (*INSIDE, *(name[1:] for name in given if name.startswith("*.")))
        self._any = ANY in given
        self._remembered = lru_cache(REMEMBERED)(self._allows)

    def allows(self, header: bytes) -> bool:
        """Whether the value of a `Host` header names us."""
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
    """Why a text can't be one of the names to allow; None where it can."""
    if name == ANY or _PATTERN.fullmatch(name):
        return None
    return f"{name!r} is no host name: write names without a port, as in game.example.com,*.lan"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host.lower() == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
