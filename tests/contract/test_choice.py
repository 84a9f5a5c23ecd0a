"""Who serves after learning from a trace: a rule where nothing learnt beats it."""

import numpy as np
import pytest

from services.trainer.choice import choose
from services.trainer.learning import Learnt
from services.trainer.module import module_of
from services.trainer.replay import Recorded
from shared.core.observation import History
from shared.core.parameters import FleetParameters

PARAMETERS = FleetParameters(min_servers=0, observation="calendar")
NOISE = np.random.default_rng(0).integers(40, 61, 400).astype(float)
"""Nobody can foresee it: a constant is the best there is."""


def learnt(cost):
    scores = {"held_out_cost": cost, "held_out_reward": -cost}
    return Learnt(module_of(PARAMETERS, seed=0), 0, scores, {})


def recorded(demands):
    return Recorded.unbroken(History(65.0 * np.arange(len(demands)), demands, 65.0))


def test_a_rule_serves_where_it_did_better_and_is_tuned_to_the_end():
    rising = np.concatenate((NOISE[:380], NOISE[380:] + 30))
    choice = choose(learnt(cost=500.0), recorded(NOISE), PARAMETERS)
    assert choice.kind == "rule:constant"
    assert choice.costs["rule:constant"] == min(choice.costs.values())
    assert choice.costs["learnt"] == 500.0
    then = choose(learnt(cost=500.0), recorded(rising), PARAMETERS)
    asked = [one.costs["rule:constant"] for one in (choice, then)]
    assert asked[0] < asked[1], "it was tuned before the held-out part, not on it"
    assert choice.policy.added == pytest.approx(np.quantile(NOISE, 5 / 6), abs=1)


def test_what_is_learnt_serves_where_it_did_best_or_nothing_was_held_out():
    best = learnt(cost=0.1)
    choice = choose(best, recorded(NOISE), PARAMETERS)
    assert (choice.kind, choice.policy) == ("learnt", best.module)
    short = choose(Learnt(best.module, 0, {}, {}), recorded(NOISE[:12]), PARAMETERS)
    assert (short.kind, short.policy, short.costs) == ("learnt", best.module, {})
