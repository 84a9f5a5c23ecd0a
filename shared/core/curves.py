"""The notebook's simulated demand, as functions of a position in the cycle.

Both curves are the positive arch of a sine, sampled at evenly spaced points from 0.2 to 3.1 rad,
so they jump where one arch ends and the next begins.
"""

from functools import lru_cache

import numpy as np

from shared.core.arrays import FloatArray

SINE1H_STEPS = 60
"""Steps in one arch of `sine1h`: one a minute in the notebook."""
SINE24H_SECONDS = 36_000
"""Seconds in one arch of `sine24h`: ten hours, as in the notebook, in spite of its name."""
SIMULATOR_PEAK = 99.0
"""Peak of the notebook's two simulator endpoints, in servers."""
PEAK_FRACTION = 0.9
"""Peak of the environment's own sine, as a fraction of `max_servers`."""


@lru_cache(maxsize=4)
def _arch(points: int) -> FloatArray:
    return np.sin(np.linspace(0.2, 3.1, points))


def sine1h(position: int, peak: float) -> float:
    """Demand in servers at a step or minute; the arch repeats after 60 of them."""
    return float(peak * _arch(SINE1H_STEPS + 1)[position % SINE1H_STEPS])


def sine24h(position: int, peak: float) -> float:
    """Demand in servers at a second; the arch repeats after ten hours.

    The notebook's endpoint also returns random numbers during one random hour of the day. That is
    left out: such demand could not be replayed.
    """
    return float(peak * _arch(SINE24H_SECONDS)[position % SINE24H_SECONDS])
