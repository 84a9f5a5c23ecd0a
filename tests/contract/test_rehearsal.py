"""Made-up demand beside a fleet's own: at its scale, and the less the more of its own there is."""

import numpy as np
import pytest

from shared.core.parameters import FleetParameters
from shared.learning.hindsight.samples import Samples, SampleSpec
from shared.learning.hindsight.synthetic_samples import OF_EACH, SERIES, with_synthetic

PARAMETERS = FleetParameters(observation="calendar")
SAMPLE_SPEC = SampleSpec.of(PARAMETERS)


def own(rows):
    fields = len(PARAMETERS.observation_fields)
    seen = np.full((rows, fields), 50.0, dtype=np.float32)
    return Samples(seen, np.full((rows, 1), 50.0, dtype=np.float32), rows)


def test_its_own_come_first_and_synthetic_ones_follow():
    mixed = with_synthetic(own(30), 50.0, SAMPLE_SPEC, PARAMETERS)
    assert (mixed.recorded, mixed.synthetic) == (30, SERIES * OF_EACH)
    assert len(mixed.observations) == len(mixed.outcomes) == 30 + SERIES * OF_EACH
    np.testing.assert_array_equal(mixed.observations[:30], own(30).observations)
    assert np.median(mixed.outcomes[30:]) == pytest.approx(50, rel=0.2)


def test_servers_are_scaled_and_times_are_not():
    small, large = (
        with_synthetic(own(1), level, SAMPLE_SPEC, PARAMETERS) for level in (10.0, 40.0)
    )
    times = np.array([name.startswith("time_") for name in PARAMETERS.observation_fields])
    synthetic = small.observations[1:], large.observations[1:]
    np.testing.assert_allclose(4 * synthetic[0][:, ~times], synthetic[1][:, ~times], rtol=1e-5)
    np.testing.assert_array_equal(synthetic[0][:, times], synthetic[1][:, times])
    np.testing.assert_allclose(4 * small.outcomes[1:], large.outcomes[1:], rtol=1e-5)


def test_the_more_of_its_own_the_less_is_synthetic():
    parts = [
        with_synthetic(own(rows), 50.0, SAMPLE_SPEC, PARAMETERS).synthetic_share
        for rows in (10, 5_000, 20_000)
    ]
    assert parts == pytest.approx([0.5, 0.25, 0.1], abs=1e-3)
