"""Tuned rules: by hand, tuned on the training part alone, and blind to the future."""

import numpy as np
import pytest

from shared.core import rules
from shared.core.history import History, part
from shared.core.parameters import FleetParameters
from shared.core.replay import replay
from shared.core.tuning import LIVE_RULE, RULES, Rule, fit_margin, tune, with_margin

WIDE = FleetParameters(min_servers=0.0, max_servers=1e6, action_factor=100.0)
LEAD = WIDE.lead_steps
HOUR = 3600.0
EVERY = [pytest.param(rule, id=rule.name) for rule in (*RULES, LIVE_RULE)]


def history(demands, step_seconds=HOUR):
    times = np.arange(len(demands)) * step_seconds
    return History(times, np.asarray(demands, dtype=np.float64), step_seconds)


def noisy(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    daily = 50 + 30 * np.sin(2 * np.pi * np.arange(rows) / 24)
    return history(np.maximum(daily + rng.normal(0, 3, rows), 0))


def test_a_buffer_is_the_quantile_of_what_the_forecast_missed_by():
    """Rise of 1 to 6 in a lead time, each once: five sixths of them need at most 5 more."""
    demands = np.concatenate((np.zeros(LEAD), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    forecast = np.zeros_like(demands)
    assert fit_margin(forecast, demands, "added", WIDE) == 5.0


def test_a_factor_is_weighted_by_what_it_multiplies():
    """Ratios 2 (forecast 1) and 1.5 (forecast 10): a sixth and more hangs on the second."""
    forecast = np.array([1.0, 10.0] + [0.0] * LEAD)
    demands = np.array([0.0] * LEAD + [2.0, 15.0])
    assert fit_margin(forecast, demands, "times", WIDE) == 1.5


@pytest.mark.parametrize("margin", ["added", "times"])
def test_no_other_margin_costs_less(margin):
    demand = noisy().demands

    def cost(value):
        surplus = with_margin(demand, margin, value)[:-LEAD] - demand[LEAD:]
        return np.where(surplus > 0, surplus, -5 * surplus).mean()

    best = fit_margin(demand, demand, margin, WIDE)
    assert all(cost(best) <= cost(best + change) + 1e-9 for change in (-0.5, -0.01, 0.01, 0.5))


def test_constant_and_last_demand_by_hand():
    demands = history([4.0] * 30)
    constant, last = (tune(rule, demands, WIDE).decisions(demands, WIDE) for rule in RULES[:2])
    assert constant.tolist() == last.tolist() == [4.0] * 30


def test_target_tracking_goes_up_at_once_and_down_after_the_cooldown():
    followed = rules.target_tracking(history([5, 9, 7, 6, 6, 8, 7, 7, 10]), WIDE, cooldown=2)
    # Up to 9; two quiet steps; down to 6 at the third; up to 8; down to 10's rise: up again.
    assert followed.tolist() == [5, 9, 9, 9, 6, 8, 8, 8, 10]
    assert rules.target_tracking(history([5, 9, 7]), WIDE, cooldown=0).tolist() == [5, 9, 7]


def test_damped_trend_by_hand():
    """Rise of 2 a step, half of it believed for 6 steps; before the first row, the first."""
    ahead = rules.damped_trend(history([10, 12, 14]), WIDE, window=2, damping=0.5, spreads=1.0)
    assert ahead == pytest.approx([10.0, 12 + 6, 14 + 6])


def test_seasonal_is_exact_on_a_day_that_repeats():
    demands = noisy(24).demands
    week = history(np.tile(demands, 10))
    ahead = rules.seasonal(week, WIDE, period="day", weight=1.0)
    assert ahead[24:-LEAD] == pytest.approx(week.demands[24 + LEAD :])
    assert ahead[:22] == pytest.approx(week.demands[:22])  # no yesterday: the last demand


def test_seasonal_takes_yesterday_until_a_week_is_reached():
    rows = noisy(24 * 9)
    weekly = rules.seasonal(rows, WIDE, period="week", weight=1.0)
    daily = rules.seasonal(rows, WIDE, period="day", weight=1.0)
    assert weekly[:166] == pytest.approx(daily[:166])
    at = 24 * 8
    shift = rows.demands[at - 168 + LEAD] - rows.demands[at - 168]
    assert weekly[at] == pytest.approx(rows.demands[at] + shift)


def test_the_oracle_meets_every_demand():
    demands = noisy()
    allocations = replay(rules.oracle(demands, WIDE), WIDE).allocations
    assert allocations[LEAD:].tolist() == demands.demands[LEAD:].tolist()


@pytest.mark.parametrize("rule", EVERY)
def test_tuning_is_the_best_of_the_grid_and_knows_the_training_part_only(rule):
    before, cut = noisy(), 280
    after = history(np.concatenate((before.demands[:cut], 1000 * noisy(seed=1).demands[cut:])))
    tuned = tune(rule, part(before, 0, cut), WIDE)
    assert tune(rule, part(after, 0, cut), WIDE) == tuned
    one_by_one = [
        tune(Rule(rule.name, rule.forecast, rule.margin, (setting,)), part(before, 0, cut), WIDE)
        for setting in rule.settings
    ]
    assert tuned.training_cost == min(each.training_cost for each in one_by_one)


@pytest.mark.parametrize("rule", EVERY)
@pytest.mark.parametrize("changed", [1, 30, 200, 399])
def test_no_rule_sees_the_future(rule, changed):
    """Demand is another from row `changed` on: targets up to and including it stay."""
    before = noisy()
    demands = before.demands.copy()
    demands[changed:] = demands[changed:] * 3 + 7
    for setting in rule.settings:
        decided = rule.forecast(before, WIDE, **setting)
        other = rule.forecast(history(demands), WIDE, **setting)
        targets, others = (replay(each, WIDE).targets for each in (decided, other))
        assert targets[: changed + 1].tolist() == others[: changed + 1].tolist(), setting


@pytest.mark.parametrize("rule", EVERY)
@pytest.mark.parametrize("demands", [[0.0] * 60, [7.0] * 60, [1.0] * 59 + [1000.0]])
def test_odd_demand_gives_finite_targets(rule, demands):
    decisions = tune(rule, history(demands), WIDE).decisions(history(demands), WIDE)
    assert decisions.shape == (60,)
    assert np.isfinite(decisions).all()
