"""How long a fleet really takes from a raised target to the servers: state in, state out.

A raise is waited for from when it was told until as many servers are seen up. What is taken back
of it before that is waited for no more; nor is one that takes longer than anybody would wait: then
something else decides how many servers there are.
"""

import statistics
from dataclasses import dataclass, replace

SAMPLES = 9
"""The newest raises that were met; their median is the lead time."""
RAISES = 32
"""Waited for at once; of more, the newest."""
DIFFERS = 1.5
"""Times as long, or as short, as assumed: too far to plan with."""
ENOUGH_SAMPLES = 3
"""Before anybody is told that the assumption is wrong."""


@dataclass(frozen=True, slots=True)
class Raise:
    """Servers that were asked for: those above a number, up to another."""

    at: float
    """When, in seconds since 1970."""
    above: int
    servers: int


@dataclass(frozen=True, slots=True)
class LeadTime:
    """What is known of one fleet."""

    up: int
    """Servers that were up when last seen."""
    told: int | None = None
    """The number told last."""
    raises: tuple[Raise, ...] = ()
    """Told and not yet met, oldest first; each is above the one before."""
    samples: tuple[float, ...] = ()
    """Seconds that raises took to be met, oldest first."""

    @property
    def seconds(self) -> float | None:
        """From a raised target to the servers; None before a raise was met."""
        return statistics.median(self.samples) if self.samples else None

    def differs_from(self, assumed_s: float) -> bool:
        """Whether enough was measured to call the assumption wrong."""
        if self.seconds is None or len(self.samples) < ENOUGH_SAMPLES:
            return False
        return not assumed_s / DIFFERS <= self.seconds <= assumed_s * DIFFERS


def seen(lead: LeadTime | None, up: int, at: float, patience_s: float) -> LeadTime:
    """Servers are up at a time: raises up to as many are met.

    Raises that have waited longer than `patience_s` are given up.
    """
    if lead is None:
        return LeadTime(up)
    met = [at - each.at for each in lead.raises if each.servers <= up and each.at <= at]
    return replace(
        lead,
        up=up,
        raises=tuple(
            each
            for each in lead.raises
            if (each.servers > up or each.at > at) and at - each.at <= patience_s
        ),
        samples=(*lead.samples, *(took for took in met if took <= patience_s))[-SAMPLES:],
    )


def told(lead: LeadTime, servers: int, at: float) -> LeadTime:
    """A number is told: what it raises above what is up is waited for, what is beyond it is not."""
    kept = (replace(each, servers=min(each.servers, servers)) for each in lead.raises)
    raises = tuple(each for each in kept if each.servers > each.above)
    if lead.told is not None and servers > max(lead.told, lead.up):
        raises = (*raises, Raise(at, max(lead.told, lead.up), servers))[-RAISES:]
    return replace(lead, told=servers, raises=raises)
