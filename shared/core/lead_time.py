"""Measures a fleet's lead time, from a raised target to the servers: state in, state out.

A raise is pending from when it is recommended until that many servers are reported up. If the
target falls before that, the raise is reduced or dropped. A raise that is pending for too long is
dropped as well: then something else limits the number of servers.
"""

import statistics
from dataclasses import dataclass, replace

SAMPLES = 9
"""Number of completed raises that are kept, the newest; their median is the lead time."""
RAISES = 32
"""Most raises that are pending at a time; of more, the newest are kept."""
DIFFERS = 1.5
"""Factor, up or down, from which the measured lead time differs from the assumed one."""
ENOUGH_SAMPLES = 3
"""Fewest completed raises for a warning that the assumed lead time is wrong."""


@dataclass(frozen=True, slots=True)
class Raise:
    """A raise of the target, from `above` servers to `servers`."""

    at: float
    """When it was recommended, in seconds since 1970."""
    above: int
    servers: int


@dataclass(frozen=True, slots=True)
class LeadTime:
    """The measurements of one fleet; stored in its record, so the fields keep their names."""

    up: int
    """Servers up, as reported last."""
    told: int | None = None
    """The last recommended target, in whole servers."""
    raises: tuple[Raise, ...] = ()
    """Pending, oldest first; each starts where the one before ends, or above."""
    samples: tuple[float, ...] = ()
    """Seconds that completed raises took, oldest first."""

    @property
    def seconds(self) -> float | None:
        """The lead time, median of the samples; None before the first raise has completed."""
        return statistics.median(self.samples) if self.samples else None

    def differs_from(self, assumed_s: float) -> bool:
        """Whether enough raises have completed, and took much more or less than `assumed_s`."""
        if self.seconds is None or len(self.samples) < ENOUGH_SAMPLES:
            return False
        return not assumed_s / DIFFERS <= self.seconds <= assumed_s * DIFFERS


def observed(lead: LeadTime | None, up: int, at: float, patience_s: float) -> LeadTime:
    """`up` servers are reported at time `at`: raises up to that number have completed.

    Raises that have been pending for more than `patience_s` seconds are dropped.
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


def recommended(lead: LeadTime, servers: int, at: float) -> LeadTime:
    """`servers` are recommended at time `at`: a new raise is pending if that is more than before.

    Pending raises are cut to that number.
    """
    kept = (replace(each, servers=min(each.servers, servers)) for each in lead.raises)
    raises = tuple(each for each in kept if each.servers > each.above)
    if lead.told is not None and servers > max(lead.told, lead.up):
        raises = (*raises, Raise(at, max(lead.told, lead.up), servers))[-RAISES:]
    return replace(lead, told=servers, raises=raises)
