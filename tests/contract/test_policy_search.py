"""Forecasting nets and policy search, on demand that can be learnt within seconds."""

import numpy as np
import pytest

from shared.core.band_rule import QUANTILE, BandRule, numbers_of
from shared.core.forecasts import HORIZONS, LEVELS, Forecasts
from shared.core.history import History, part
from shared.core.lead_process import Starts, lead_paths
from shared.core.lobby import Lobby
from shared.core.lobby_guards import LobbyGuards
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyFleet, roll_out, scored
from shared.learning.lobby.forecasting import fit
from shared.learning.lobby.search import SearchBudget, Simulator, search, search_plain
from shared.learning.models.quantile_nets import SAMPLE_SPEC
from shared.learning.threads import use_one_thread
from shared.recorded_demand import Recorded

LEARNT, ROWS = 1_200, 1_700
FLEET = LobbyFleet(Lobby(), LobbyGuards(0.0, 200.0))
PARAMETERS = FleetParameters(min_servers=0.0, max_servers=200.0, observation="calendar")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    use_one_thread()


@pytest.fixture(scope="module")
def history() -> History:
    """A noisy sine with a period of 21 hours, ten minutes per row."""
    rng = np.random.default_rng(0)
    rows = np.arange(ROWS)
    demands = 50 + 25 * np.sin(rows / 20) + 2 * rng.standard_normal(ROWS)
    return History(1.6e9 + 600.0 * rows, demands, 600.0)


@pytest.fixture(scope="module")
def forecasts(history: History) -> Forecasts:
    forecaster = fit(Recorded.unbroken(part(history, 0, LEARNT)), PARAMETERS, 0, updates=250)
    return Forecasts.of(forecaster.quantiles(history, PARAMETERS), history.demands)


def test_forecasts_beat_the_last_demand_and_their_levels_are_met(
    history: History, forecasts: Forecasts
) -> None:
    rows = np.arange(LEARNT, ROWS - max(HORIZONS))
    for at, horizon in enumerate(HORIZONS):
        met = history.demands[rows + horizon]
        median = forecasts.quantiles[rows, at, 0]
        unchanged = np.abs(met - history.demands[rows]).mean()
        if horizon >= 6:
            assert np.abs(met - median).mean() < 0.6 * unchanged
        covered = (met[:, None] <= forecasts.quantiles[rows, at]).mean(axis=0)
        np.testing.assert_allclose(covered, LEVELS, atol=0.15)


def test_each_fold_is_forecast_by_nets_that_have_not_seen_it(history: History) -> None:
    """Changed demand within a fold hardly changes the forecasts of the nets that left it out."""
    recorded = Recorded.unbroken(part(history, 0, LEARNT))
    changed = history.demands.copy()
    fitted = fit(recorded, PARAMETERS, 0, updates=100)
    (_, _), (begin, end), *_ = fitted.folds
    inside = np.flatnonzero((history.times >= begin) & (history.times < end))
    changed[inside[40] : inside[-1]] += 40.0
    other = History(history.times, changed, history.step_seconds)
    refitted = fit(Recorded.unbroken(part(other, 0, LEARNT)), PARAMETERS, 0, updates=100)
    rows = inside[:40]
    same, again = (one.nets.quantiles(_seen(history, rows))[1] for one in (fitted, refitted))
    scale = history.demands.std()
    assert np.abs(same - again).max() < 0.35 * scale
    others = [one.nets.quantiles(_seen(history, rows))[0] for one in (fitted, refitted)]
    assert np.abs(others[0] - others[1]).max() > np.abs(same - again).max()


def _seen(history: History, rows: np.ndarray) -> np.ndarray:
    return SAMPLE_SPEC.observations(history, PARAMETERS, rows)


def cost_of(
    numbers: np.ndarray, history: History, forecasts: Forecasts, leads: np.ndarray
) -> float:
    paths, steps = leads.shape
    rolled = roll_out(
        BandRule(np.tile(numbers, (paths, 1)), forecasts),
        history.demands,
        Starts(leads, np.arange(paths), 5),
        np.full(paths, LEARNT),
        steps,
        FLEET,
    )
    return scored(rolled).cost_per_step


def test_search_beats_one_quantile_and_adapting_to_the_lead_beats_a_fixed_horizon(
    history: History, forecasts: Forecasts
) -> None:
    simulator = Simulator(history.demands[:LEARNT], ("regimes",), FLEET)
    plain = search_plain(simulator, forecasts, 0, SearchBudget(plain_rounds=8))
    adaptive = search(simulator, forecasts, plain, 0, SearchBudget(rounds=10))
    leads = lead_paths("regimes", 16, ROWS - LEARNT - 1, np.random.default_rng(77))
    quantile, fixed, follows = (
        cost_of(numbers, history, forecasts, leads) for numbers in (QUANTILE, plain, adaptive)
    )
    assert fixed < 0.85 * quantile
    assert follows < fixed


def test_search_is_reproducible_and_keeps_to_its_number_of_rounds(
    history: History, forecasts: Forecasts
) -> None:
    simulator = Simulator(history.demands[:LEARNT], ("constant",), FLEET)
    told: list[float] = []
    first = search(
        simulator,
        forecasts,
        numbers_of(level=2.0, horizon=8.0),
        3,
        SearchBudget(rounds=2),
        told.append,
    )
    again = search(
        simulator, forecasts, numbers_of(level=2.0, horizon=8.0), 3, SearchBudget(rounds=2)
    )
    assert np.array_equal(first, again)
    assert told == [0.5, 1.0]
