"""Who serves after learning from a trace: what was learnt, a rule, or both."""

from dataclasses import replace

import numpy as np
import pytest

from services.trainer.blend import Blend
from services.trainer.choice import NO_GOOD, choose
from services.trainer.gate import tuned_rules
from services.trainer.learning import Learnt
from services.trainer.module import module_of
from services.trainer.replay import Recorded
from shared.core.observation import History
from shared.core.parameters import FleetParameters

PARAMETERS = FleetParameters(min_servers=0, observation="calendar")
SEASON = "rule:seasonal"
NOISE = np.random.default_rng(0).integers(40, 61, 400).astype(float)
"""Nobody can foresee it: a constant is the best there is."""


def learnt(cost):
    scores = {"held_out_cost": cost, "held_out_reward": -cost}
    return Learnt(module_of(PARAMETERS, seed=0), 0, scores, {})


def recorded(demands):
    return Recorded.unbroken(History(65.0 * np.arange(len(demands)), demands, 65.0))


def test_a_rule_serves_where_what_is_learnt_is_no_good_and_is_tuned_to_the_end():
    rising = np.concatenate((NOISE[:380], NOISE[380:] + 30))
    choice = choose(learnt(cost=500.0), recorded(NOISE), PARAMETERS)
    assert choice.kind == "rule:constant"
    assert choice.costs["rule:constant"] == min(choice.costs.values())
    assert choice.costs["learnt"] == 500.0
    then = choose(learnt(cost=500.0), recorded(rising), PARAMETERS)
    asked = [one.costs["rule:constant"] for one in (choice, then)]
    assert asked[0] < asked[1], "it was tuned before the held-out part, not on it"
    assert choice.policy.added == pytest.approx(np.quantile(NOISE, 5 / 6), abs=1)


@pytest.mark.parametrize(("times", "kind"), [(0.99, "learnt"), (1.01, "rule:constant")])
def test_a_rule_that_did_better_answers_beside_what_is_learnt(times, kind):
    cost = choose(learnt(cost=500.0), recorded(NOISE), PARAMETERS).costs["rule:constant"]
    one = learnt(times * NO_GOOD * cost)
    choice = choose(one, recorded(NOISE), PARAMETERS)
    assert choice.kind == kind
    if kind == "learnt":
        assert isinstance(choice.policy, Blend)
        assert choice.beside == "rule:constant"
        assert choice.policy.experts == {"nets": 0.5, "rule:constant": 0.5}
        with_seasonal = replace(one, rule=tuned_rules(recorded(NOISE).history, PARAMETERS)[SEASON])
        experts = choose(with_seasonal, recorded(NOISE), PARAMETERS).policy.experts
        assert experts == pytest.approx({"nets": 0.4, SEASON: 0.1, "rule:constant": 0.5})
        as_in_the_notebook = replace(PARAMETERS, reward="notebook")
        alone = choose(one, recorded(NOISE), as_in_the_notebook)
        assert alone.beside is None, "nothing would put it right"


def test_what_is_learnt_serves_where_it_did_best_or_nothing_was_held_out():
    best = learnt(cost=0.1)
    choice = choose(best, recorded(NOISE), PARAMETERS)
    assert (choice.kind, choice.policy) == ("learnt", best.module)
    short = choose(Learnt(best.module, 0, {}, {}), recorded(NOISE[:12]), PARAMETERS)
    assert (short.kind, short.policy, short.costs) == ("learnt", best.module, {})
