"""Servers for known events: when the floor stands, when it rises, and what the clocks do to it."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.schedule import ScheduledFloor

BERLIN = ZoneInfo("Europe/Berlin")
FRIDAY = datetime(2026, 11, 27, 18, tzinfo=BERLIN)
STEP = timedelta(seconds=65)
LEAD = 6 * STEP


def event(**changes):
    return ScheduledFloor(
        **{
            "cron": "0 18 * * FRI",
            "zone": BERLIN,
            "duration": timedelta(hours=3),
            "servers": 50,
            **changes,
        }
    )


def floor(at, max_step_up=0, **changes):
    return event(**changes).servers_at(at, LEAD, STEP, max_step_up)


@pytest.mark.parametrize(
    ("what", "at", "servers"),
    [
        ("the day before", FRIDAY - timedelta(days=1), 0),
        ("a later decision is in time", FRIDAY - LEAD - STEP, 0),
        ("no later decision is in time", FRIDAY - LEAD - STEP + timedelta(seconds=1), 50),
        ("servers are up as it starts", FRIDAY - LEAD, 50),
        ("while it starts", FRIDAY, 50),
        ("until its end", FRIDAY + timedelta(hours=3) - timedelta(seconds=1), 50),
        ("after its end", FRIDAY + timedelta(hours=3), 0),
        ("a week later", FRIDAY + timedelta(days=7), 50),
    ],
)
def test_the_floor_stands_from_a_lead_time_before_the_event_until_its_end(what, at, servers):
    assert floor(at) == servers, what
    assert floor(at.astimezone(UTC)) == servers, what


@pytest.mark.parametrize(
    ("steps_before", "servers"), [(0, 50), (1, 40), (2, 30), (4, 10), (5, 0), (60, 0)]
)
def test_it_rises_before_by_as_many_a_step_as_are_allowed(steps_before, servers):
    assert floor(FRIDAY - LEAD - steps_before * STEP, max_step_up=10) == servers


@given(
    st.integers(1, 70),
    st.integers(1, 100),
    st.floats(0, 64.9),
    st.integers(0, 59),
)
def test_whatever_the_pace_of_decisions_servers_are_up_in_time(max_step_up, servers, phase, minute):
    """Samples every step, on any phase: each may add `max_step_up` to the floor before."""
    rises = event(cron=f"{minute} 18 * * FRI", servers=servers)
    start = FRIDAY.replace(minute=minute)
    first = start - 110 * STEP + timedelta(seconds=phase)
    told = {}
    before = 0.0
    for number in range(112):
        at = first + number * STEP
        now = rises.servers_at(at, LEAD, STEP, max_step_up)
        assert now <= before + max_step_up
        told[at + LEAD] = before = now
    up_at_start = [servers for up, servers in told.items() if up <= start][-1]
    assert up_at_start == servers


def test_the_time_that_a_clock_leaves_out_comes_when_it_goes_on():
    left_out = event(cron="30 2 * * *", duration=timedelta(hours=1))
    goes_on = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # 3:00 in summer

    def at(moment):
        return left_out.servers_at(moment, timedelta(0), STEP, 0)

    assert at(goes_on - STEP) == 0
    assert at(goes_on) == 50
    assert at(goes_on + timedelta(minutes=59)) == 50
    assert at(goes_on + timedelta(minutes=60)) == 0


def test_the_time_that_a_clock_shows_twice_comes_once():
    twice = event(cron="30 2 * * *", duration=timedelta(minutes=50))
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 2:30 in summer; at 1:30 UTC 2:30 again

    def at(moment, max_step_up=0):
        return twice.servers_at(moment, timedelta(0), STEP, max_step_up)

    assert at(first - STEP) == 0
    assert at(first) == 50
    assert at(first + timedelta(minutes=49)) == 50, "at 2:19 of the second time it goes on"
    assert at(first + timedelta(minutes=50)) == 0
    assert at(first + timedelta(hours=1)) == 0
    assert at(first + timedelta(minutes=55), 49) == 0, "nor does it rise for the second"


def test_an_event_is_as_long_on_a_night_of_25_hours():
    long = event(cron="0 22 * * SAT", duration=timedelta(hours=6))
    start = datetime(2026, 10, 24, 22, tzinfo=BERLIN).astimezone(UTC)
    assert long.servers_at(start + timedelta(hours=5, minutes=59), LEAD, STEP, 0) == 50
    assert long.servers_at(start + timedelta(hours=6), LEAD, STEP, 0) == 0


def test_events_that_overlap_themselves_go_on():
    hourly = event(cron="0 * * * *", duration=timedelta(minutes=90))
    moments = [FRIDAY + timedelta(minutes=7 * number) for number in range(60)]
    assert {hourly.servers_at(at, LEAD, STEP, 0) for at in moments} == {50}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cron": "0 18 * *"}, "must have 5 fields"),
        ({"cron": "0 0 18 * * FRI"}, "must have 5 fields"),
        ({"cron": ""}, "must have 5 fields"),
        ({"cron": "0 25 * * *"}, "has a bad hour"),
        ({"cron": "0 18 30 2 *"}, "has a bad day-of-month"),
        ({"duration": timedelta(0)}, "duration is 0:00:00"),
        ({"duration": timedelta(days=-1)}, "duration is -1 day"),
        ({"duration": timedelta(days=400)}, "at most 366 days"),
        ({"servers": 0}, "servers is 0"),
    ],
)
def test_what_can_not_be_an_event(changes, says):
    with pytest.raises(ValueError, match=says):
        event(**changes)
