"""How long servers take to come up, measured on what is told and what is seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.lead_time import RAISES, SAMPLES, LeadTime, observed, recommended

PATIENCE = 1_000.0


def run(*events):
    """The state after ``("told", servers, at)`` and ``("seen", up, at)``."""
    lead = None
    for what, servers, at in events:
        if what == "seen":
            lead = observed(lead, servers, at, PATIENCE)
        elif lead is not None:
            lead = recommended(lead, servers, at)
    return lead


def test_without_supply_nothing_is_measured():
    assert run(("told", 10, 0), ("told", 20, 65)) is None


def test_a_raise_takes_from_when_it_was_told_until_the_servers_are_seen():
    lead = run(("seen", 10, 0), ("told", 10, 0), ("told", 20, 65), ("seen", 15, 130))
    assert lead.seconds is None
    assert observed(lead, 20, 345, PATIENCE).seconds == 280


def test_raises_that_overlap_are_measured_each():
    lead = run(
        ("seen", 10, 0),
        ("told", 10, 0),
        ("told", 20, 100),
        ("told", 30, 200),
        ("seen", 20, 350),
        ("seen", 30, 500),
    )
    assert lead.samples == (250, 300)


def test_what_is_left_of_a_raise_is_measured_from_when_it_was_told():
    lead = run(
        ("seen", 10, 0),
        ("told", 10, 0),
        ("told", 40, 100),
        ("told", 20, 200),
        ("told", 25, 300),
        ("seen", 20, 400),
        ("seen", 25, 600),
    )
    assert lead.samples == (300, 300)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([("told", 30, 10), ("seen", 30, 300)], id="the first number: raised when?"),
        pytest.param([("told", 10, 0), ("told", 20, 10), ("told", 10, 50)], id="taken back"),
        pytest.param([("told", 10, 0), ("told", 20, 10), ("seen", 20, 5)], id="seen before told"),
        pytest.param([("told", 10, 0), ("told", 20, 10), ("seen", 20, 1011)], id="given up"),
        pytest.param([("seen", 50, 0), ("told", 10, 0), ("told", 40, 10)], id="up already"),
        pytest.param([("told", 20, 0), ("told", 20, 10), ("seen", 20, 300)], id="no raise"),
    ],
)
def test_what_is_no_lead_time(events):
    lead = run(("seen", 10, 0), *events)
    assert lead.samples == ()
    assert observed(lead, 100, 1_500, PATIENCE).samples == ()


def test_the_median_of_the_newest_counts():
    lead = LeadTime(up=0, samples=(9_999.0, 100.0, 110.0))
    assert lead.seconds == 110
    for _ in range(SAMPLES):
        lead = observed(
            recommended(recommended(LeadTime(0, 0, (), lead.samples), 0, 0), 5, 0), 5, 50, PATIENCE
        )
    assert lead.samples == (50.0,) * SAMPLES


@pytest.mark.parametrize(
    ("samples", "differs"),
    [
        ((600.0,) * 2, False),
        ((600.0,) * 3, True),
        ((450.0, 450.0, 450.0), False),
        ((200.0, 200.0, 200.0), True),
        ((325.0, 2_000.0, 330.0), False),
    ],
)
def test_when_the_assumption_is_wrong(samples, differs):
    assert LeadTime(up=0, samples=samples).differs_from(325.0) is differs


EVENTS = st.lists(
    st.tuples(st.sampled_from(["told", "seen"]), st.integers(0, 50), st.integers(0, 300)),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_the_state_stays_small_and_its_figures_possible(events):
    at = 0
    lead = None
    for what, servers, later in events:
        at += later
        lead = run_one(lead, what, servers, at)
        if lead is None:
            continue
        assert len(lead.raises) <= RAISES
        assert len(lead.samples) <= SAMPLES
        assert all(0 <= sample <= PATIENCE for sample in lead.samples)
        asked = [bound for each in lead.raises for bound in (each.above, each.servers)]
        assert asked == sorted(asked)
        assert all(each.above < each.servers for each in lead.raises)
        assert [each.at for each in lead.raises] == sorted(each.at for each in lead.raises)
        if lead.told is not None:
            assert all(servers <= lead.told for servers in asked)
        if what == "seen":
            assert all(each.servers > lead.up for each in lead.raises)


def run_one(lead, what, servers, at):
    if what == "seen":
        return observed(lead, servers, at, PATIENCE)
    return None if lead is None else recommended(lead, servers, at)


@given(
    st.integers(1, 20),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(30, 65),
)
def test_a_fleet_that_always_takes_as_long_is_measured_to_the_next_look(lead_looks, rises, every):
    """Servers asked for at one look are up `lead_looks` later; the target only rises."""
    lead, target, targets = observed(None, 0, 0, 1e9), 0, []
    lead = recommended(lead, 0, 0)
    for look in range(len(rises) + lead_looks):
        up = targets[look - lead_looks] if look >= lead_looks else 0
        lead = observed(lead, up, look * every, 1e9)
        target += rises[look] if look < len(rises) else 0
        targets.append(target)
        lead = recommended(lead, target, look * every)
    assert lead.samples
    assert set(lead.samples) == {lead_looks * every}
