"""Start-up times: how they are sampled, and that lanes on one path get the same samples."""

import numpy as np
import pytest

from shared.core.lead_process import FAILING, KINDS, Kind, Starts, lead_paths


@pytest.mark.parametrize("kind", KINDS)
def test_leads_are_the_same_from_the_same_seed(kind: Kind) -> None:
    first, again, other = (
        lead_paths(kind, 3, 500, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert kind == "constant" or not np.array_equal(first, other)
    assert first.min() > 0


def test_regimes_persist_and_have_the_spread_that_was_measured() -> None:
    leads = lead_paths("regimes", 200, 5_000, np.random.default_rng(0))
    assert leads.mean() == pytest.approx(7.3, abs=0.5)
    assert (leads > 7).mean() == pytest.approx(0.29, abs=0.05)
    assert (leads > 13).mean() == pytest.approx(0.10, abs=0.03)
    slow = leads > 7
    assert (slow[:, 10:] == slow[:, :-10]).mean() > 0.8


def test_a_slowdown_is_permanent() -> None:
    leads = lead_paths("slowdown", 50, 600, np.random.default_rng(0))
    ratio = leads[:, 400:].mean(axis=1) / leads[:, :200].mean(axis=1)
    assert ratio.min() > 2.2
    assert ratio.max() < 4.4


def test_servers_come_up_around_the_lead_and_some_fail() -> None:
    starts = Starts(np.full((1, 20), 8.0), np.zeros(1, dtype=np.int64), 3)
    starts.launch(0, np.array([20_000.0]))
    ended = [starts.ended(step) for step in range(20)]
    came_up = np.array([one.came_up[0] for one in ended])
    failed = np.array([one.failed[0] for one in ended])
    assert (came_up + failed).sum() == 20_000
    assert np.flatnonzero(came_up).tolist() == [7, 8, 9, 10], "0.85 to 1.25 of eight steps"
    assert failed.sum() / 20_000 == pytest.approx(FAILING, abs=0.004)


def test_starts_that_outlast_the_roll_out_do_not_end_in_it() -> None:
    starts = Starts(np.full((2, 5), 100.0), np.array([0, 1]), 3)
    starts.launch(1, np.array([3.0, 4.0]))
    assert all(starts.ended(step).came_up.sum() == 0 for step in range(5))


def test_lanes_on_one_path_get_the_same_samples_whatever_the_others_launch() -> None:
    leads = np.random.default_rng(0).uniform(3, 9, (2, 40))
    alone = Starts(leads, np.array([1]), 9)
    among = Starts(leads, np.array([0, 1, 1]), 9)
    for step in range(0, 20, 3):
        alone.launch(step, np.array([6.0]))
        among.launch(step, np.array([step % 4, 6.0, 11.0]))
    for step in range(40):
        assert alone.ended(step).came_up[0] == among.ended(step).came_up[1]
        assert alone.ended(step).failed[0] == among.ended(step).failed[1]
        assert among.ended(step).came_up[2] >= among.ended(step).came_up[1]
