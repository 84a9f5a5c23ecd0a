"""What serves after learning from a trace: what was learnt, or whoever did better without it.

Learning keeps the newest part of the history out, to stop early; on the same part the general
policy and the rules, tuned on what came before it, are scored. The platform's own gate keeps a
part that learning never sees (`services.trainer.gate`); from a single trace that would be lost.

That part is one stretch of demand, so a rule that wins it may be no more than lucky. It serves
alone where what was learnt is no good at all, and otherwise answers beside it.
"""

from dataclasses import dataclass

from services.trainer.blend import Blend, with_winner
from services.trainer.evaluation import evaluate, targets_of
from services.trainer.gate import GENERAL, tuned_rules
from services.trainer.general import general_module
from services.trainer.learning import HELD_OUT, Learnt
from services.trainer.module import ResidualModule
from services.trainer.replay import Recorded, hold_out, replayable
from services.trainer.rules import ServedRule
from shared.core.parameters import FleetParameters

LEARNT = "learnt"
NO_GOOD = 2.0
"""Times a rule's cost. Of 68 pieces of real traces' training parts, what was learnt lost the
held-out part of six, by up to 1.7 times; on what came after, it was cheaper in four, as good in
one. On made-up noise the rule that had won stayed the better one, by a tenth."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who serves, and what everybody cost on the held-out part."""

    kind: str
    """`learnt`, `general`, or the rule that it is."""
    policy: Blend | ResidualModule | ServedRule
    costs: dict[str, float]
    """Servers per step, by kind; empty when nothing could be held out."""
    beside: str | None = None
    """The rule that answers beside what was learnt, as it did better on the held-out part."""


def choose(learnt: Learnt, recorded: Recorded, parameters: FleetParameters) -> Choice:
    """The one with the highest mean reward on the held-out part; of equals, what was learnt."""
    usable = replayable(recorded, parameters)
    before, rows = hold_out(usable, HELD_OUT, parameters)
    if not len(rows):
        return Choice(LEARNT, learnt.policy, {})
    general = general_module(parameters)
    others: dict[str, ResidualModule | ServedRule] = {
        **({} if general is None else {GENERAL: general}),
        **tuned_rules(before.history, parameters),
    }
    rewards = {LEARNT: learnt.scores["held_out_reward"]}
    costs = {LEARNT: learnt.scores["held_out_cost"]}
    for kind, policy in others.items():
        targets = targets_of(policy, usable.history, parameters, rows)
        held_out = evaluate(targets, usable.history, parameters, rows)
        if held_out is not None:
            rewards[kind], costs[kind] = held_out.reward, held_out.cost
    kind = max(rewards, key=rewards.__getitem__)
    if kind == LEARNT:
        return Choice(kind, learnt.policy, costs)
    # A rule is tuned again, with the newest part.
    rule = tuned_rules(usable.history, parameters).get(kind)
    if rule is None:
        return Choice(kind, others[kind], costs)
    # Whoever does not adapt can't be put right by what comes.
    if parameters.reward != "asymmetric" or costs[LEARNT] > NO_GOOD * costs[kind]:
        return Choice(kind, rule, costs)
    return Choice(LEARNT, with_winner(learnt.policy, kind, rule), costs, beside=kind)
