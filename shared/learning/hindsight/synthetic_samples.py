"""Made-up demand that a fleet goes on learning from, beside its own.

A short history lacks most of what can happen: in ten days a week ago is known on three of them.
Nets that see nothing else grow sure of what they have seen. The less history there is, the more
made-up demand is mixed in, as it was for the general policy.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from shared.core.fields import in_servers
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.hindsight.samples import Array32, Samples, drawn_samples
from shared.learning.hindsight.synthetic import synthetic_history

SERIES = 40
OF_EACH = 400
SEED = 9
MOST = 0.5
"""Part of a batch that is made up, next to no history at all."""
ROWS = 5_000
"""Samples of its own with which that part is half as large."""
MOST_SERVERS = 1e6
SMALLEST_LEVEL = 0.1
"""Least usual demand that it is scaled to, in servers."""


def with_synthetic(decisions: Samples, level: float, parameters: FleetParameters) -> Samples:
    """The same decisions, and made-up ones scaled to a fleet whose usual demand is `level`."""
    unlimited = replace(parameters, min_servers=0.0, max_servers=MOST_SERVERS)
    seen, met = _synthetic_samples(unlimited)
    scale = np.float32(max(level, SMALLEST_LEVEL))
    servers = in_servers(parameters.observation_fields)
    return Samples(
        np.concatenate((decisions.observations, np.where(servers, scale * seen, seen))),
        np.concatenate((decisions.outcomes, scale * met)),
        decisions.recorded,
        len(met),
        MOST * ROWS / (ROWS + decisions.recorded),
    )


@cache
def _synthetic_samples(parameters: FleetParameters) -> tuple[Array32, Array32]:
    """Of fleets whose usual demand is 1: the same for all, made once in a process."""
    rng = np.random.default_rng(SEED)
    seen, met = [], []
    for _ in range(SERIES):
        history = synthetic_history(rng)
        usual = max(float(np.median(history.demands)), SMALLEST_LEVEL)
        scaled = History(history.times, history.demands / usual, history.step_seconds)
        one_seen, one_met = drawn_samples(
            scaled, parameters, rng, ((len(scaled.demands), OF_EACH),)
        )
        seen.append(one_seen)
        met.append(one_met)
    return np.concatenate(seen), np.concatenate(met)
