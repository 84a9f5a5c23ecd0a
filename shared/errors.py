"""Every error that the platform raises on purpose.

    AutopilotError
    ├── BadInput                 what the user gave can't be used       (exit 2, HTTP 422)
    │   ├── BadSetting           a setting, a fleet file                (exit 2)
    │   └── UnknownField         an observation's field that is none
    ├── UnknownFleet             no such fleet                          (HTTP 404)
    ├── BusAway                  Redis does not answer                  (HTTP 503, Retry-After)
    ├── StoreAway                the policy store in S3 does not answer      (HTTP 503)
    ├── DemandMissing            the matchmaker says nothing usable
    ├── PredictionStale          what is told is not to be followed     (HTTP 503)
    ├── FleetInShadow            decided for, but not to be followed    (HTTP 503)
    ├── StepConflict             the fleet's next step was committed by somebody else
    ├── LeaseLost                another worker holds the fleet
    └── PolicyError              a policy can't be used
        ├── PolicyMissing        no such version, or none yet
        ├── PolicyCorrupt        a file does not match its sha256, or its shape is wrong
        ├── PolicyUnfit          it needs to see what its fleet does not show
        └── PolicyDisagrees      SavedModel, LiteRT and torch give different answers

The message is a sentence for the reader of a log or a terminal: what is wrong, what to do.
"""

QUOTED = 80
"""Characters of what came from outside that a message repeats."""


def quoted(text: object) -> str:
    """What came from outside, as a message repeats it: it may be very long, and is cut."""
    shown = repr(text)
    return shown if len(shown) <= QUOTED else f"{shown[:QUOTED]}... ({len(shown)} characters)"


class AutopilotError(Exception):
    """Anything that the platform refuses or cannot do, with a sentence that says what to do."""


class BadInput(AutopilotError):
    """What the user gave can't be used."""


class BadSetting(BadInput):
    """A setting or a fleet file is wrong; the process ends with exit code 2."""


class UnknownField(BadInput):
    """An observation names a field that nobody can build."""

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
    """The policy store does not answer, or refuses; what serves goes on serving, try again."""


class DemandMissing(AutopilotError):
    """The matchmaker gave no usable demand for this step."""


class PredictionStale(AutopilotError):
    """What is told of a fleet rests on nothing fresh: don't scale it by that."""


class FleetInShadow(AutopilotError):
    """A fleet is in shadow: what is decided for it is scored, and nobody is to follow it."""

    def __init__(self, fleet: str) -> None:
        super().__init__(
            f"fleet {fleet!r} is in shadow, so its decisions are not to be followed: use your own "
            f"fallback; add shadow=true to see what would be told; `autopilot fleets live {fleet}` "
            "ends it"
        )


class StepConflict(AutopilotError):
    """The step was already committed by another worker; read the fleet's state again."""


class LeaseLost(AutopilotError):
    """Another worker holds the fleet now; leave it alone."""


class PolicyError(AutopilotError):
    """A policy can't be used; the one before it goes on serving."""


class PolicyMissing(PolicyError):
    """There is no such policy version, or no champion yet."""


class PolicyCorrupt(PolicyError):
    """A policy's file does not match its sha256, or its shape is not its manifest's."""


class PolicyUnfit(PolicyError):
    """A policy needs to see what its fleet, with its present settings, does not show."""


class PolicyDisagrees(PolicyError):
    """The exported forms of a policy do not give the same answers; it is not published."""
