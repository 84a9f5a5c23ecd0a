import numpy as np
import pytest

from services.trainer.evaluation import observations_after
from services.trainer.gate import CANDIDATE, LEAST_STEPS, judge, keep_for_gate, tuned_rules
from services.trainer.replay import Recorded
from services.trainer.rules import SERVED_RULES, ServedRule
from shared.core.observation import History
from shared.core.parameters import FleetParameters
from shared.core.tuning import tune

PARAMETERS = FleetParameters(observation="calendar")
DAY_STEPS = 144


def days(count, seed=0) -> History:
    """A daily wave with noise, every ten minutes."""
    rng = np.random.default_rng(seed)
    rows = np.arange(count * DAY_STEPS)
    demands = 50 + 30 * np.sin(2 * np.pi * rows / DAY_STEPS) + rng.normal(0, 1, len(rows))
    return History(rows * 600.0, demands, 600.0)


@pytest.mark.parametrize("rule", SERVED_RULES, ids=lambda rule: rule.name)
def test_a_served_rule_decides_as_the_tuned_one(rule):
    history = days(9)
    tuned = tune(rule, history, PARAMETERS)
    served = ServedRule.of(tuned, PARAMETERS)
    assert served is not None
    rows = np.arange(8 * DAY_STEPS, 9 * DAY_STEPS)
    actions = served.decide(observations_after(history, PARAMETERS, rows))[:, 0]
    wanted = np.clip(tuned.decisions(history, PARAMETERS)[rows], 0, 100)
    assert actions * PARAMETERS.action_factor == pytest.approx(wanted)


def test_the_notebooks_observation_has_no_seasons():
    rules = tuned_rules(days(3), FleetParameters())
    assert set(rules) == {"rule:constant", "rule:buffer", "rule:factor", "rule:trend_buffer"}


def test_what_is_kept_is_neither_learnt_nor_tuned_on():
    recorded = Recorded.unbroken(days(3))
    learnt, kept = keep_for_gate(recorded, PARAMETERS)
    cut = len(learnt.history.demands)
    assert cut == pytest.approx(0.8 * 3 * DAY_STEPS, abs=1)
    assert (kept + PARAMETERS.lead_steps >= cut).all()
    assert len(kept) >= LEAST_STEPS


def test_a_short_history_is_learnt_from_whole():
    history = History(np.arange(30) * 600.0, np.full(30, 20.0), 600.0)
    learnt, kept = keep_for_gate(Recorded.unbroken(history), PARAMETERS)
    assert len(learnt.history.demands) == 30
    assert not len(kept)


def flat(servers, rows=200) -> tuple[History, np.ndarray]:
    history = History(np.arange(rows) * 600.0, np.full(rows, servers), 600.0)
    return history, np.arange(100, rows - PARAMETERS.lead_steps)


@pytest.mark.parametrize(
    ("what", "contenders", "incumbent", "winner"),
    [
        ("the cheapest", {CANDIDATE: 41.0, "v1": 45.0, "rule:buffer": 50.0}, "v1", CANDIDATE),
        (
            "a rule, if it is cheaper",
            {CANDIDATE: 50.0, "v1": 45.0, "rule:buffer": 41.0},
            "v1",
            "rule:buffer",
        ),
        (
            "the runner-up, when the champion loses",
            {CANDIDATE: 60.0, "v2": 50.0, "v1": 42.0},
            "v2",
            "v1",
        ),
        ("the champion among equals", {CANDIDATE: 45.0, "v1": 45.0}, "v1", "v1"),
        ("the champion by less than a hundredth", {CANDIDATE: 44.97, "v1": 45.0}, "v1", "v1"),
        ("missing servers cost five times", {CANDIDATE: 39.0, "v1": 44.0}, "v1", "v1"),
        ("anybody, where nobody serves", {CANDIDATE: 45.0, "rule:buffer": 46.0}, None, CANDIDATE),
    ],
)
def test_who_wins(what, contenders, incumbent, winner):
    history, rows = flat(40.0)
    verdict = judge(
        {name: np.full(len(rows), servers) for name, servers in contenders.items()},
        incumbent,
        history,
        PARAMETERS,
        rows,
    )
    assert verdict.winner == winner, what
    assert set(verdict.costs) == set(contenders)
    assert verdict.steps == len(rows)


def test_a_champion_that_gives_no_number_is_replaced():
    history, rows = flat(40.0)
    targets = {CANDIDATE: np.full(len(rows), 60.0), "v1": np.full(len(rows), np.nan)}
    assert judge(targets, "v1", history, PARAMETERS, rows).winner == CANDIDATE


def test_without_anything_to_score_on_the_champion_stays():
    history, _ = flat(40.0)
    none = np.empty(0, dtype=np.int64)
    contenders = {CANDIDATE: np.empty(0), "v1": np.empty(0)}
    assert judge(contenders, "v1", history, PARAMETERS, none).winner == "v1"
    assert judge(contenders, None, history, PARAMETERS, none).winner == CANDIDATE
