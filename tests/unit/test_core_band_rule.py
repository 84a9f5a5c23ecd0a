"""The state-feedback rule in roll-outs: its bands, and how roll-outs are scored."""

import numpy as np
import pytest

from shared.core.band_rule import NAMES, NUMBERS, QUANTILE, BandRule, TargetRule, numbers_of
from shared.core.forecasts import HORIZONS, LEVELS, Forecasts
from shared.core.lead_process import Starts
from shared.core.lobby import Lobby
from shared.core.lobby_guards import LobbyGuards
from shared.core.rollout import LobbyFleet, Step, mean_cost, roll_out, scored

ROWS = 400
FLEET = LobbyFleet(Lobby(), LobbyGuards(0.0, 200.0))


def sine() -> np.ndarray:
    return 50 + 30 * np.sin(np.arange(ROWS) / 25)


def perfect(demands: np.ndarray) -> Forecasts:
    """Perfect forecasts at every level; after the last row, the last demand is repeated."""
    ahead = np.minimum(np.arange(len(demands))[:, None] + np.array(HORIZONS), len(demands) - 1)
    known = np.repeat(demands[ahead][:, :, None], len(LEVELS), axis=2)
    return Forecasts(known, np.ones(len(demands)), np.zeros(len(demands)))


def rolled(numbers: np.ndarray, lead: float = 5.0, lanes: int = 2, first: int = 10) -> list[Step]:
    demands = sine()
    rule = BandRule(np.tile(numbers, (lanes, 1)), perfect(demands))
    steps = 300
    starts = Starts(np.full((1, steps), lead), np.zeros(lanes, dtype=np.int64), 1)
    rows = np.full(lanes, first)
    return list(roll_out(rule, demands, starts, rows, steps, FLEET))


def test_every_parameter_has_a_unique_name_and_a_start_within_its_bounds() -> None:
    assert len(set(NAMES)) == len(NUMBERS) == 16
    assert all(number.low <= number.start <= number.high for number in NUMBERS)


def test_with_one_quantile_both_levels_are_that_quantile() -> None:
    demands = sine()
    for row, step in enumerate(rolled(QUANTILE), start=10):
        ahead = np.ceil(demands[row + 6])
        assert step.band.raise_level.tolist() == step.band.keep_level.tolist() == [ahead, ahead]


def test_lanes_with_the_same_parameters_and_path_do_the_same() -> None:
    last = rolled(QUANTILE)[-1]
    assert np.ptp(last.met.cost) == 0
    assert np.ptp(last.acted.told) == 0


def test_with_perfect_forecasts_nobody_waits_long() -> None:
    score = scored(iter(rolled(numbers_of(level=2.0, horizon=6.0, buffer=1.0))))
    assert score.waiting_mean < 0.1
    assert score.cost_per_step < 20


def test_a_longer_observed_lead_lengthens_the_horizon() -> None:
    follows = numbers_of(level=2.0, horizon=2.0, horizon_per_lead=1.0, newest=1.0)
    fixed = numbers_of(level=2.0, horizon=8.0)
    slow = [scored(iter(rolled(numbers, lead=14.0))) for numbers in (follows, fixed)]
    assert slow[0].waiting_mean < 0.7 * slow[1].waiting_mean
    assert slow[0].cost_per_step < slow[1].cost_per_step


def test_the_age_of_an_unfinished_start_counts_as_evidence_of_the_lead() -> None:
    """At a lead of fifty steps no start has ended yet; the oldest is over thirty steps old."""
    numbers = numbers_of(level=2.0, horizon_per_lead=1.0, oldest=1.5)
    demands = np.concatenate((np.full(100, 20.0), np.full(200, 40.0)))
    forecasts = perfect(demands)
    rule = BandRule(numbers[None], forecasts)
    starts = Starts(np.full((1, 60), 50.0), np.zeros(1, dtype=np.int64), 1)
    steps = list(roll_out(rule, demands, starts, np.array([95]), 40, FLEET))
    assert steps[0].band.raise_level[0] == 40, "the jump is within the prior's six steps"
    memory = rule.begin()
    for number, step in enumerate(steps):
        memory, _ = rule.decide(memory, step.met, step.ended, np.array([95 + number]))
    assert memory.lead.fast[0] == 6, "no start has ended"
    assert memory.lead.oldest[0] > 30


def test_waiting_players_raise_the_band() -> None:
    plain, heeding = (
        numbers_of(level=0.0, horizon=1.0),
        numbers_of(level=0.0, horizon=1.0, waiting=2.0),
    )
    scores = [scored(iter(rolled(numbers))) for numbers in (plain, heeding)]
    assert scores[1].waiting_mean < scores[0].waiting_mean


def test_the_keep_level_falls_slowly() -> None:
    quick, slow = (
        rolled(numbers_of(level=2.0, horizon=6.0, keep_steps=steps)) for steps in (0.0, 20.0)
    )
    assert all(
        (one.band.keep_level <= other.band.keep_level).all()
        for one, other in zip(quick, slow, strict=True)
    )
    removed = [sum(float(step.acted.removed.sum()) for step in steps) for steps in (quick, slow)]
    assert removed[1] < removed[0]


def test_an_autoscaler_s_target_is_both_levels() -> None:
    demands = sine()
    starts = Starts(np.full((1, 50), 5.0), np.zeros(1, dtype=np.int64), 1)
    rule = TargetRule(demands * 1.2)
    steps = roll_out(
        rule, demands, starts, np.array([10]), 50, LobbyFleet(Lobby(), LobbyGuards(0, 70))
    )
    for row, step in enumerate(steps, start=10):
        expected = min(np.ceil(demands[row] * 1.2), 70)
        assert step.band.raise_level[0] == step.band.keep_level[0] == expected


def test_a_score_adds_up() -> None:
    steps = rolled(QUANTILE, lead=9.0, lanes=3)
    score = scored(iter(steps))
    assert score.steps == len(steps)
    assert score.costs.shape == (3,)
    assert score.cost_per_step == pytest.approx(mean_cost(iter(steps), 0).mean())
    assert score.lost == pytest.approx(np.mean([step.met.lost for step in steps]) * len(steps))
    assert 0 < score.matches_that_wait_pct < 100
    assert score.waiting_p95 > score.waiting_mean > 0
    assert mean_cost(iter(steps), 100)[0] == pytest.approx(
        np.mean([step.met.cost[0] for step in steps[100:]])
    )
