"""Who serves after learning from a trace: what was learnt, a rule, or both."""

from dataclasses import replace

import numpy as np
import pytest

from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.learning.from_trace import selected
from shared.learning.models.mixture import Mixture
from shared.learning.models.network import module_of
from shared.learning.selection.contenders import NO_GOOD, tuned_rules
from shared.learning.selection.gate import cost_on
from shared.learning.training import TrainingResult
from shared.recorded_demand import Recorded

PARAMETERS = FleetParameters(min_servers=0, observation="calendar")
SEASON = "rule:seasonal"
NOISE = np.random.default_rng(0).integers(40, 61, 400).astype(float)
"""Nobody can foresee it: a constant is the best there is."""


NETS = module_of(PARAMETERS, seed=0)
LEARNT = TrainingResult(NETS, 0, {}, {}, NETS)


def select(cost, demands, parameters=PARAMETERS, learnt=LEARNT):
    """What serves, where what is learnt costs so much on the held-out part."""

    def scoring(*arguments):
        others = cost_on(*arguments)
        return lambda policy: cost if policy is NETS else others(policy)

    return selected(learnt, recorded(demands), parameters, scoring)


def recorded(demands):
    return Recorded.unbroken(History(65.0 * np.arange(len(demands)), demands, 65.0))


def test_a_rule_serves_where_what_is_learnt_is_no_good_and_is_tuned_to_the_end():
    rising = np.concatenate((NOISE[:380], NOISE[380:] + 30))
    choice = select(500.0, NOISE)
    assert choice.kind == "rule:constant"
    assert choice.costs["rule:constant"] == min(choice.costs.values())
    assert choice.costs["learnt"] == 500.0
    then = select(500.0, rising)
    asked = [one.costs["rule:constant"] for one in (choice, then)]
    assert asked[0] < asked[1], "it was tuned before the held-out part, not on it"
    assert choice.policy.added == pytest.approx(np.quantile(NOISE, 5 / 6), abs=1)


@pytest.mark.parametrize(("times", "kind"), [(0.99, "learnt"), (1.01, "rule:constant")])
def test_a_rule_that_did_better_answers_beside_what_is_learnt(times, kind):
    cost = times * NO_GOOD * select(500.0, NOISE).costs["rule:constant"]
    choice = select(cost, NOISE)
    assert choice.kind == kind
    if kind == "learnt":
        assert isinstance(choice.policy, Mixture)
        assert choice.decision.beside == "rule:constant"
        assert choice.policy.experts == {"nets": 0.5, "rule:constant": 0.5}
        seasonal = tuned_rules(recorded(NOISE).history, PARAMETERS)[SEASON]
        experts = select(cost, NOISE, learnt=replace(LEARNT, rule=seasonal)).policy.experts
        assert experts == pytest.approx({"nets": 0.4, SEASON: 0.1, "rule:constant": 0.5})
        as_in_the_notebook = replace(PARAMETERS, reward="notebook")
        alone = select(1e9, NOISE, as_in_the_notebook)
        assert alone.kind != "learnt"
        assert alone.decision.beside is None, "nothing would put it right"


def test_what_is_learnt_serves_where_it_did_best_or_nothing_was_held_out():
    choice = select(0.1, NOISE)
    assert (choice.kind, choice.policy) == ("learnt", NETS)
    short = select(0.1, NOISE[:12])
    assert (short.kind, short.policy, short.costs) == ("learnt", NETS, {})
