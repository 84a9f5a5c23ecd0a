"""Messages: what is refused, and that what is sent comes back the same."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.core.guards import GuardEffect
from shared.core.parameters import FleetParameters
from shared.messages import (
    MAX_PLAYERS_EVER,
    MAX_SERVERS_EVER,
    Champion,
    Decision,
    Demand,
    DemandReport,
    Explanation,
    FleetMode,
    FleetRecord,
    PolicyManifest,
    RecordedStep,
    Supply,
    TrainingJob,
    TrainingOutcome,
    Transition,
    utc_now,
)

FLEETS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
SERVERS = st.floats(0, MAX_SERVERS_EVER)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**53)
SERVER_COUNTS = st.integers(0, MAX_SERVERS_EVER)
LABELS = st.text(min_size=1, max_size=200)
MOMENTS = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 - the strategy adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=9, minutes=30))]),
)
SEVERAL = st.lists(FINITE, max_size=10).map(tuple)
SUPPLIES = st.builds(Supply, allocated=st.none() | SERVER_COUNTS, ready=st.none() | SERVER_COUNTS)
MESSAGES = {
    "Demand": st.builds(
        Demand,
        fleet=FLEETS,
        demand=SERVERS,
        observed_at=MOMENTS,
        source=st.none() | LABELS,
        seq=st.none() | COUNTS,
        supply=st.none() | SUPPLIES,
    ),
    "DemandReport": st.builds(
        DemandReport,
        fleet=FLEETS,
        num_of_gameservers=SERVERS,
        observed_at=st.none() | MOMENTS,
        tickets_waiting=st.none() | st.integers(0, MAX_PLAYERS_EVER),
    ),
    "Transition": st.builds(
        Transition,
        fleet=FLEETS,
        step=st.integers(1, 2**53),
        at=MOMENTS,
        observation=SEVERAL,
        action=FINITE,
        target=SERVERS,
        demand=SERVERS,
        reported_demand=SERVERS,
        allocation=SERVERS,
        reward=FINITE,
        next_observation=SEVERAL,
        policy_version=st.text(),
        stale=st.booleans(),
        gap_steps=COUNTS,
    ),
    "Decision": st.builds(
        Decision,
        fleet=FLEETS,
        step=st.integers(1, 2**53),
        target=SERVERS,
        allocation=SERVERS,
        curr_demand=SERVERS,
        action=FINITE,
        observation=SEVERAL,
        policy_version=st.text(),
        decided_at=MOMENTS,
        fallback=st.sampled_from([None, "no_policy", "stale_decision", "stale_demand"]),
    ),
    "Explanation": st.builds(
        Explanation,
        fleet=FLEETS,
        step=st.integers(1, 2**53),
        decided_at=MOMENTS,
        policy_version=st.text(),
        fallback=st.sampled_from([None, "no_policy", "stale_demand"]),
        observation=st.dictionaries(st.text(), st.none() | FINITE, max_size=4),
        demands=SEVERAL,
        answers=SEVERAL,
        weights=SEVERAL,
        margin=FINITE,
        action=FINITE,
        ask=FINITE,
        reported_demand=SERVERS,
        told_before=st.none() | SERVERS,
        asks=SEVERAL,
        floor=SERVERS,
        scheduled=SERVERS,
        moves=st.lists(
            st.builds(
                GuardEffect, st.sampled_from(["max_step_up", "scheduled_floor"]), FINITE, FINITE
            ),
            max_size=3,
        ).map(tuple),
        target=SERVERS,
    ),
    "FleetMode": st.builds(FleetMode, fleet=FLEETS, shadow=st.booleans(), since=MOMENTS),
    "FleetRecord": st.builds(
        FleetRecord,
        fleet=FLEETS,
        step=st.integers(1, 2**53),
        due_at=MOMENTS,
        demands=SEVERAL,
        targets=SEVERAL,
        reported_demand=SERVERS,
        next_action=FINITE,
        next_policy_version=st.text(),
        untrained_steps=COUNTS,
    ),
    "Champion": st.builds(Champion, fleet=FLEETS, version=LABELS, since=MOMENTS),
    "PolicyManifest": st.builds(
        PolicyManifest,
        version=LABELS,
        fleet=FLEETS,
        created_at=MOMENTS,
        observation_fields=st.lists(st.text(), max_size=4).map(tuple),
        history_len=st.integers(2, 100),
        min_servers=SERVERS,
        max_servers=SERVERS,
        action_factor=st.floats(0.1, 1e6),
        scores=st.dictionaries(st.text(), FINITE, max_size=3),
        trained_on_steps=COUNTS,
        seed=st.integers(0, 2**31),
        sha256=st.dictionaries(st.text(), st.text(), max_size=3),
    ),
    "TrainingJob": st.builds(
        TrainingJob, fleet=FLEETS, queued_at=MOMENTS, up_to_step=st.integers(1, 2**53)
    ),
    "TrainingOutcome": st.builds(
        TrainingOutcome,
        fleet=FLEETS,
        at=MOMENTS,
        outcome=st.sampled_from(["published", "kept", "demoted", "failed"]),
        version=st.none() | LABELS,
        champion=st.none() | LABELS,
        runner_up=st.none() | LABELS,
        winner=st.none() | LABELS,
        costs=st.dictionaries(LABELS, FINITE, max_size=3),
        live_costs=st.dictionaries(LABELS, FINITE, max_size=2),
        live_steps=COUNTS,
        reason=st.none() | st.text(),
        error=st.none() | st.text(),
        seconds=st.floats(0, 1e9),
        environment_steps=COUNTS,
    ),
}


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_a_message_comes_back_as_it_was_sent(kind, data):
    message = data.draw(MESSAGES[kind])
    assert type(message).model_validate_json(message.model_dump_json()) == message


@given(
    st.builds(
        RecordedStep,
        st.integers(1, 2**63 - 1),
        FINITE,
        SERVERS,
        st.booleans(),
        COUNTS,
        ask=st.none() | FINITE,
        allocation=st.none() | SERVERS,
        up=st.none() | st.integers(0, 3 * MAX_SERVERS_EVER),
        floor=SERVERS,
    )
)
def test_a_recorded_step_comes_back_as_it_was_sent(recorded):
    adapter = TypeAdapter(RecordedStep)
    assert adapter.validate_json(adapter.dump_json(recorded)) == recorded


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_a_field_of_another_release_is_passed_over_and_a_message_does_not_change(kind, data):
    message = data.draw(MESSAGES[kind])
    document = {**message.model_dump(mode="json"), "colour": "blue"}
    assert type(message).model_validate_json(json.dumps(document)) == message
    with pytest.raises(ValidationError, match="frozen"):
        message.fleet = "another"


def test_times_are_kept_in_utc():
    written = "2026-11-22T20:33:01+02:00"
    champion = Champion.model_validate({"fleet": "a", "version": "1", "since": written})
    assert champion.since == datetime(2026, 11, 22, 18, 33, 1, tzinfo=UTC)
    assert champion.since.tzinfo is UTC


def test_the_clock_is_in_utc():
    assert utc_now().tzinfo is UTC


GOOD = {"num_of_gameservers": 84}
PLAYERS = {"ccu": 1000, "players_per_server": 8}


@pytest.mark.parametrize(
    ("body", "demand"),
    [
        (GOOD, 84.0),
        ({"num_of_gameservers": 0}, 0.0),
        ({"num_of_gameservers": MAX_SERVERS_EVER}, 1e6),
        (PLAYERS, 125.0),
        ({"ccu": 0, "players_per_server": 8}, 0.0),
        ({"ccu": 30_000_000, "players_per_server": 100}, 300_000.0),
    ],
)
def test_a_demand_report(body, demand):
    report = DemandReport.model_validate_json(json.dumps(body))
    assert report.demand == demand
    assert report.fleet == "default"


REFUSED = {
    "NaN": ('{"num_of_gameservers": NaN}', "finite"),
    "infinity": ('{"num_of_gameservers": Infinity}', "finite|less than or equal"),
    "a number too great for a float": (
        '{"num_of_gameservers": 1e400}',
        "finite|less than or equal",
    ),
    "negative": ('{"num_of_gameservers": -1}', "greater than or equal to 0"),
    "too many": ('{"num_of_gameservers": 1000001}', "less than or equal to 1000000"),
    "text": ('{"num_of_gameservers": "many"}', "valid number"),
    "a number as text": ('{"num_of_gameservers": "84"}', "valid number"),
    "true": ('{"num_of_gameservers": true}', "valid number"),
    "a list": ('{"num_of_gameservers": [84]}', "valid number"),
    "nothing": ("{}", "either num_of_gameservers or ccu"),
    "null": ('{"num_of_gameservers": null}', "either num_of_gameservers or ccu"),
    "both": (json.dumps(GOOD | PLAYERS), "either num_of_gameservers or ccu"),
    "ccu alone": ('{"ccu": 1000}', "go together"),
    "players_per_server without ccu": (
        '{"num_of_gameservers": 84, "players_per_server": 8}',
        "go together",
    ),
    "ccu NaN": ('{"ccu": NaN, "players_per_server": 8}', "finite"),
    "ccu negative": ('{"ccu": -1, "players_per_server": 8}', "greater than or equal to 0"),
    "ccu text": ('{"ccu": "1000", "players_per_server": 8}', "valid number"),
    "players_per_server 0": ('{"ccu": 1000, "players_per_server": 0}', "greater than 0"),
    "players_per_server negative": ('{"ccu": 1000, "players_per_server": -8}', "greater than 0"),
    "players_per_server infinity": ('{"ccu": 1, "players_per_server": Infinity}', "finite"),
    "too many by division": ('{"ccu": 1000000, "players_per_server": 0.5}', "at most 1000000"),
    "infinitely many by division": ('{"ccu": 5, "players_per_server": 5e-324}', "demand is inf"),
    "unknown field": ('{"num_of_gameservers": 84, "colour": 1}', "Extra inputs"),
    "unknown field of supply": ('{"num_of_gameservers": 84, "supply": {"a": 1}}', "Extra inputs"),
    "fleet with a slash": ('{"num_of_gameservers": 84, "fleet": "../x"}', "match pattern"),
    "fleet with a line end": ('{"num_of_gameservers": 84, "fleet": "x\\n"}', "match pattern"),
    "fleet empty": ('{"num_of_gameservers": 84, "fleet": ""}', "match pattern"),
    "fleet too long": ('{"num_of_gameservers": 84, "fleet": "%s"}' % ("x" * 64), "match pattern"),
    "naive time": (
        '{"num_of_gameservers": 84, "observed_at": "2026-11-22T20:33:01"}',
        "timezone info",
    ),
    "a date": ('{"num_of_gameservers": 84, "observed_at": "2026-11-22"}', "timezone info"),
    "a time as a number": ('{"num_of_gameservers": 84, "observed_at": 1795379581}', "RFC 3339"),
    "a time as digits": ('{"num_of_gameservers": 84, "observed_at": "1795379581"}', "RFC 3339"),
    "a time that is none": ('{"num_of_gameservers": 84, "observed_at": "to-day"}', "datetime"),
    "a time before the year 1 in UTC": (
        '{"num_of_gameservers": 84, "observed_at": "0001-01-01T00:00:00+05:00"}',
        "years 1 to 9999",
    ),
    "a time after the year 9999 in UTC": (
        '{"num_of_gameservers": 84, "observed_at": "9999-12-31T23:59:59-05:00"}',
        "years 1 to 9999",
    ),
    "seq negative": ('{"num_of_gameservers": 84, "seq": -1}', "greater than or equal to 0"),
    "seq text": ('{"num_of_gameservers": 84, "seq": "1"}', "valid integer"),
    "idempotency_key empty": ('{"num_of_gameservers": 84, "idempotency_key": ""}', "at least 1"),
    "idempotency_key too long": (
        '{"num_of_gameservers": 84, "idempotency_key": "%s"}' % ("x" * 201),
        "at most 200",
    ),
    "tickets_waiting a fraction": ('{"num_of_gameservers": 84, "tickets_waiting": 1.5}', "integer"),
    "oldest_ticket_age_s negative": (
        '{"num_of_gameservers": 84, "oldest_ticket_age_s": -1}',
        "greater than or equal to 0",
    ),
    "supply negative": ('{"num_of_gameservers": 84, "supply": {"ready": -1}}', "greater than"),
    "not an object": ("84", "object"),
    "not JSON": ("{", "Invalid JSON"),
}


@pytest.mark.parametrize(("body", "says"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_not_demand(body, says):
    with pytest.raises(ValidationError, match=says):
        DemandReport.model_validate_json(body, extra="forbid")


@pytest.mark.parametrize("observation", ["notebook", "calendar"])
def test_a_policy_knows_the_parameters_that_it_was_made_for(observation):
    parameters = FleetParameters(5, 60, 120, history_len=3, observation=observation)
    named = {"version": "v1", "fleet": "eu", "created_at": utc_now()}
    draft = PolicyManifest.draft(parameters, **named, scores={"cost": 1.5}, seed=7)
    assert draft.observation_fields == parameters.observation_fields
    assert replace(draft.parameters, observation=observation) == parameters
    assert (draft.scores, draft.seed, draft.trained_on_steps) == ({"cost": 1.5}, 7, 0)
