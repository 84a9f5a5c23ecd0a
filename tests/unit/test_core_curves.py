"""The notebook's simulated demand: period, peak, and the jump between two arches."""

import math

import pytest

from shared.core.curves import SINE1H_STEPS, SINE24H_SECONDS, sine1h, sine24h


@pytest.mark.parametrize(
    ("position", "angle"),
    [
        (0, 0.2),
        (1, 0.2 + 2.9 / 60),
        (30, 1.65),
        (59, 3.1 - 2.9 / 60),
        (60, 0.2),
        (121, 0.2 + 2.9 / 60),
    ],
)
def test_sine1h_reads_61_points_and_repeats_after_60(position, angle):
    assert sine1h(position, 90.0) == pytest.approx(90.0 * math.sin(angle), abs=1e-9)


@pytest.mark.parametrize(
    ("second", "angle"),
    [(0, 0.2), (35_999, 3.1), (36_000, 0.2), (71_999, 3.1), (18_000, 0.2 + 2.9 * 18_000 / 35_999)],
)
def test_sine24h_reads_36000_points_and_repeats_after_ten_hours(second, angle):
    assert sine24h(second, 99.0) == pytest.approx(99.0 * math.sin(angle), abs=1e-9)


@pytest.mark.parametrize(("curve", "period"), [(sine1h, SINE1H_STEPS), (sine24h, SINE24H_SECONDS)])
class TestEveryCurve:
    def test_repeats(self, curve, period):
        positions = range(0, period, max(1, period // 50))
        assert [curve(p, 90.0) for p in positions] == [curve(p + period, 90.0) for p in positions]

    def test_reaches_its_peak_and_stays_positive(self, curve, period):
        arch = [curve(position, 90.0) for position in range(period)]
        assert max(arch) == pytest.approx(90.0, rel=1e-3)
        assert max(arch) <= 90.0
        assert min(arch) > 0

    def test_rises_then_falls(self, curve, period):
        arch = [curve(position, 1.0) for position in range(period)]
        top = arch.index(max(arch))
        assert arch[: top + 1] == sorted(arch[: top + 1])
        assert arch[top:] == sorted(arch[top:], reverse=True)

    def test_jumps_up_where_the_next_arch_begins(self, curve, period):
        usual = max(abs(curve(p + 1, 1.0) - curve(p, 1.0)) for p in range(period - 1))
        assert curve(period, 1.0) - curve(period - 1, 1.0) > 2 * usual

    def test_scales_with_the_peak(self, curve, period):
        assert curve(period // 3, 50.0) == pytest.approx(50.0 * curve(period // 3, 1.0))
