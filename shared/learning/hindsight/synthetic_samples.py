"""Synthetic samples (rehearsal): a fleet's nets are trained on them beside its own demand.

A short history lacks most patterns: in ten days, demand of a week ago is known on three of them,
and nets that are trained on nothing else overfit. The less history there is, the more synthetic
samples are mixed in, of the kind that the pretrained policy was trained on.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from shared.core.fields import in_servers
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.hindsight.samples import Array32, Samples, SampleSpec, drawn_samples
from shared.learning.hindsight.synthetic import synthetic_history

SERIES = 40
OF_EACH = 400
SEED = 9
MOST = 0.5
"""Largest fraction of synthetic samples in a batch, with hardly any history."""
ROWS = 5_000
"""Number of the fleet's own samples at which that fraction is half as large."""
MOST_SERVERS = 1e6
SMALLEST_LEVEL = 0.1
"""Least median demand that synthetic samples are scaled to, in servers."""


def with_synthetic(
    samples: Samples, level: float, spec: SampleSpec, parameters: FleetParameters
) -> Samples:
    """The samples, and synthetic ones scaled to a fleet with a median demand of `level` servers."""
    unlimited = replace(parameters, min_servers=0.0, max_servers=MOST_SERVERS)
    seen, met = _synthetic_samples(spec, unlimited)
    scale = np.float32(max(level, SMALLEST_LEVEL))
    servers = in_servers(spec.fields)
    return Samples(
        np.concatenate((samples.observations, np.where(servers, scale * seen, seen))),
        np.concatenate((samples.outcomes, scale * met)),
        samples.recorded,
        len(met),
        MOST * ROWS / (ROWS + samples.recorded),
    )


@cache
def _synthetic_samples(spec: SampleSpec, parameters: FleetParameters) -> tuple[Array32, Array32]:
    """``(observations, outcomes)`` of fleets with a median demand of 1; made once in a process."""
    rng = np.random.default_rng(SEED)
    seen, met = [], []
    for _ in range(SERIES):
        history = synthetic_history(rng)
        median = max(float(np.median(history.demands)), SMALLEST_LEVEL)
        scaled = History(history.times, history.demands / median, history.step_seconds)
        one_seen, one_met = drawn_samples(
            scaled, spec, parameters, rng, ((len(scaled.demands), OF_EACH),)
        )
        seen.append(one_seen)
        met.append(one_met)
    return np.concatenate(seen), np.concatenate(met)
