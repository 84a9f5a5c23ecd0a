"""The encoder of observations: what each field is, and that none looks ahead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.fields import calendar_fields, from_notebook, notebook_fields
from shared.core.history import History
from shared.core.observation import DAY_SECONDS, MONDAY_SECONDS, WEEK_SECONDS, Encoder
from shared.errors import UnknownField

LEAD = 6
HOUR = 3600.0


def hourly(rows, start=MONDAY_SECONDS):
    """Demand that counts its rows, an hour each, from a Monday at midnight."""
    return History(start + HOUR * np.arange(rows), np.arange(float(rows)), HOUR)


def encoded(fields, history, row):
    return Encoder(fields, LEAD).encode(history, np.array([row]))[0].tolist()


@pytest.mark.parametrize(
    ("field", "row", "expected"),
    [
        ("demand[-1]", 7, 7),
        ("demand[-3]", 7, 5),
        ("demand[-9]", 7, None),
        ("mean[6]", 7, 4.5),
        ("mean[6]", 4, None),
        ("change[6]", 7, 1),
        ("change[6]", 5, None),
        ("day_ago[+0]", 30, 6),
        ("day_ago[+6]", 30, 12),
        ("day_ago[+0]", 22, None),
        ("day_ago[+0]", 23, 0),
        ("week_ago[+3]", 200, 35),
        ("week_ago[+3]", 100, None),
        ("time_of_day", 0, 0.25),
        ("time_of_day", 18, 0.0),
        ("time_of_week", 0, 6 / 168),
        ("time_of_week", 162, 0.0),
    ],
)
def test_fields_by_hand(field, row, expected):
    (value,) = encoded([field], hourly(201), row)
    np.testing.assert_allclose(value, np.nan if expected is None else expected, atol=1e-12)


def test_yesterday_is_the_row_nearest_in_time():
    """Rows at 0, 1, 2.4 and 3 h; a day later at 25.3 h yesterday was 1.3 h: 1 h is nearest."""
    times = np.array([0, 1, 2.4, 3, 25.3]) * HOUR
    history = History(times, np.array([10.0, 11, 12, 13, 14]), HOUR)
    assert encoded(["day_ago[+0]", "day_ago[+1]"], history, 4) == [11.0, 12.0]


def test_a_hole_yesterday_is_no_value():
    times = np.array([0.0, 10, 24, 29]) * HOUR
    history = History(times, np.array([1.0, 2, 3, 4]), HOUR)
    assert np.isnan(encoded(["day_ago[+0]"], history, 3)[0])


def test_a_step_ahead_that_reaches_the_period_is_not_known_yet():
    """Five-hour steps: yesterday and 6 of them later is 6 h from now."""
    history = History(5 * HOUR * np.arange(20.0), np.arange(20.0), 5 * HOUR)
    assert np.isnan(encoded(["day_ago[+6]"], history, 19)[0])


@pytest.mark.parametrize(
    "field", ["demand[1]", "demand", "mean[-3]", "humidity", "day_ago[-1]", ""]
)
def test_an_unknown_field_is_refused(field):
    with pytest.raises(UnknownField):
        Encoder([field], LEAD)


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.floats(0.1, 4.0), min_size=60, max_size=250),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_what_comes_after_a_row_has_no_part_in_it(gaps, data, seed):
    """Irregular times; everything after the row changes, and nothing up to it does."""
    times = 1.7e9 + HOUR * np.cumsum(gaps)
    rng = np.random.default_rng(seed)
    demands = rng.uniform(0, 90, len(times))
    row = data.draw(st.integers(0, len(times) - 1))
    later = np.arange(len(times)) > row
    other = np.where(later, demands + rng.uniform(1, 50, len(times)), demands)
    moved = np.where(later, times + 1234.5, times)
    encoder = Encoder(calendar_fields(5), LEAD)
    rows = np.arange(row + 1)
    before = encoder.encode(History(times, demands, HOUR), rows)
    after = encoder.encode(History(moved, other, HOUR), rows)
    np.testing.assert_array_equal(before, after)


def test_one_row_is_encoded_as_in_a_whole_series():
    rng = np.random.default_rng(0)
    times = 1.7e9 + np.cumsum(rng.uniform(300, 900, 3000))
    history = History(times, rng.uniform(0, 90, 3000), 600.0)
    encoder = Encoder(calendar_fields(5), LEAD)
    together = encoder.encode(history, np.arange(3000))
    for row in (0, 5, 500, 2999):
        cut = History(times[: row + 1], history.demands[: row + 1], 600.0)
        np.testing.assert_array_equal(encoder.encode(cut, np.array([row]))[0], together[row])


def test_the_newest_rows_within_reach_are_enough():
    rng = np.random.default_rng(0)
    history = History(1.7e9 + 600.0 * np.arange(3000), rng.uniform(0, 90, 3000), 600.0)
    encoder = Encoder(calendar_fields(5), LEAD)
    assert encoder.reach_seconds == WEEK_SECONDS > DAY_SECONDS
    kept = max(encoder.reach_rows, int(encoder.reach_seconds / 600.0) + 3)
    newest = History(history.times[-kept:], history.demands[-kept:], 600.0)
    np.testing.assert_array_equal(
        encoder.encode(newest, np.array([kept - 1])), encoder.encode(history, np.array([2999]))
    )


def test_targets_take_their_places_by_name():
    encoder = Encoder(["target[-1]", "demand[-1]", "target[-5]"], LEAD)
    targets = np.array([[1.0, 2, 3, 4, 5]])
    assert encoder.observations(np.array([[70.0]]), targets).tolist() == [[5, 70, 1]]


def test_the_notebooks_numbers_are_what_they_were():
    encoder = Encoder(notebook_fields(3), 4)
    seen = encoder.encode(hourly(10), np.array([9]))
    assert encoder.observations(seen, np.array([[20.0, 21, 22]])).tolist() == [
        [7, 8, 9, 20, 21, 22]
    ]


def test_the_notebooks_numbers_by_name_in_another_observation():
    fields = ("demand[-1]", "mean[6]", "target[-2]")
    values = from_notebook([1, 2, 3, 4], fields)
    np.testing.assert_array_equal(values, [2, np.nan, 3])
