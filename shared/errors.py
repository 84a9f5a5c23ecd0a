"""All errors that the platform raises deliberately.

    AutopilotError
    ├── BadInput                 what the user gave can't be used       (exit 2, HTTP 422)
    │   ├── BadSetting           a setting, a fleet file                (exit 2)
    │   └── UnknownField         an observation has no such field
    ├── UnknownFleet             no such fleet                          (HTTP 404)
    ├── BusAway                  Redis is unavailable                   (HTTP 503, Retry-After)
    ├── StoreAway                the policy store in S3 is unavailable  (HTTP 503, Retry-After)
    ├── DemandMissing            there is no usable demand              (HTTP 503)
    ├── PredictionStale          the recommendation is too old to use   (HTTP 503)
    ├── FleetInShadow            the fleet is in shadow mode            (HTTP 503)
    ├── StepConflict             another worker has committed the step
    ├── LeaseLost                another worker holds the fleet
    └── PolicyError              a policy can't be used                 (HTTP 503)
        ├── PolicyMissing        there is no such version               (HTTP 404)
        ├── PolicyCorrupt        a file does not match its sha256, or its shape is wrong
        ├── PolicyUnfit          its observation has fields that its fleet lacks
        └── PolicyDisagrees      SavedModel, LiteRT and torch give different actions

The message is a sentence for the reader of a log or a terminal: what is wrong, and what to do.
"""

QUOTED = 80
"""Most characters of outside text that a message repeats."""


def quoted(text: object) -> str:
    """Outside text as a message repeats it: quoted, and cut if it is long."""
    shown = repr(text)
    return shown if len(shown) <= QUOTED else f"{shown[:QUOTED]}... ({len(shown)} characters)"


class AutopilotError(Exception):
    """The base class: something that the platform refuses or can't do, and what to do about it."""


class BadInput(AutopilotError):
    """Input of the user can't be used."""


class BadSetting(BadInput):
    """A setting or a fleet file is wrong; the process ends with exit code 2."""


class UnknownField(BadInput):
    """A policy's observation names an unknown field."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field!r} is no field of an observation: see shared/core/observation.py")


class UnknownFleet(AutopilotError):
    """No fleet of that name is configured."""

    def __init__(self, fleet: str, known: tuple[str, ...]) -> None:
        shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        super().__init__(
            f"there is no fleet {quoted(fleet)}: use one of {shown}, or add it to AUTOPILOT_FLEETS"
        )


class BusAway(AutopilotError):
    """Redis does not answer; try again."""


class StoreAway(AutopilotError):
    """The policy store is unavailable; the loaded policies go on serving, try again."""


class DemandMissing(AutopilotError):
    """There is no usable demand, for a step or for a recommendation."""


class PredictionStale(AutopilotError):
    """A fleet's recommendation is not based on fresh data: don't scale by it."""


class FleetInShadow(AutopilotError):
    """A fleet is in shadow mode: its decisions are scored, but must not be followed."""

    def __init__(self, fleet: str) -> None:
        super().__init__(
            f"fleet {fleet!r} is in shadow, so its decisions are not to be followed: use your own "
            f"fallback; add shadow=true to see the recommendation; `autopilot fleets live {fleet}` "
            "ends it"
        )


class StepConflict(AutopilotError):
    """Another worker has committed the step; read the fleet's state again."""


class LeaseLost(AutopilotError):
    """Another worker holds the fleet now; stop stepping it."""


class PolicyError(AutopilotError):
    """A policy can't be used; the previous one goes on serving."""


class PolicyMissing(PolicyError):
    """There is no such policy version, or no champion."""


class PolicyCorrupt(PolicyError):
    """A policy's file does not match its sha256, or its shape does not match the manifest."""


class PolicyUnfit(PolicyError):
    """A policy's observation has fields that its fleet lacks with its present settings."""


class PolicyDisagrees(PolicyError):
    """The exported forms of a policy give different actions; it is not published."""
