"""Checks the names of `AUTOPILOT_*` variables: an unknown one is refused, not ignored."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from shared.errors import BadSetting

PREFIX = "AUTOPILOT_"

_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
_OF_A_SERVICE = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def is_service_address(value: object) -> bool:
    """Whether it is the value of Kubernetes' ``..._PORT`` of a Service: ``tcp://10.0.0.1:80``.

    A Service named `autopilot-prediction` makes it the value of AUTOPILOT_PREDICTION_PORT.
    """
    return isinstance(value, str) and _SERVICE_ADDRESS.fullmatch(value) is not None


def check_names(environment: Mapping[str, str], known: Iterable[str]) -> None:
    """Raise `BadSetting` for variables that are not a setting, with the closest name.

    Names are case-insensitive, as in pydantic-settings. Variables that Kubernetes injects for the
    Services of a namespace are ignored.
    """
    settings = {PREFIX + name.upper() for name in known}
    unknown = sorted(
        name
        for name, value in environment.items()
        if (upper := name.upper()).startswith(PREFIX)
        and upper not in settings
        and not _OF_A_SERVICE.fullmatch(upper)
        and not (upper.endswith("_PORT") and is_service_address(value))
    )
    if unknown:
        raise BadSetting("; ".join(_refusal(name, settings) for name in unknown))


def _refusal(name: str, settings: Iterable[str]) -> str:
    closest = get_close_matches(name.upper(), settings, n=1, cutoff=0.0)
    return f"{name} is not a setting: the closest is {closest[0]}; set that instead, or unset it"
