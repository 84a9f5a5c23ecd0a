"""The contest of a training job: who is in it, what they ask for, and so who wins."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from services.trainer.evaluation import Seeing, targets_of
from services.trainer.gate import (
    CANDIDATE,
    GENERAL,
    Live,
    Verdict,
    instead_of,
    judge,
    served_by,
    watch,
)
from services.trainer.module import ResidualModule
from services.trainer.replay import Recorded
from services.trainer.rules import ServedRule
from shared.core.backtest import decide
from shared.core.guards import NO_GUARDS, Guards
from shared.core.observation import IntArray
from shared.core.parameters import FleetParameters
from shared.errors import PolicyError
from shared.messages import Champion, Transition
from shared.policies import FleetPolicy, load_policy
from shared.policy_store import PolicyStore

FloatArray = NDArray[np.float64]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rivals:
    """Who serves a fleet, who did before, and what came of it."""

    champion: Champion | None
    policies: Mapping[str, FleetPolicy]
    """The champion and the runner-up, of those that can serve, by version."""
    transitions: Sequence[Transition]
    """What the fleet has done live since the champion serves."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A fleet's demand, what of it decides, and the rules that are in."""

    recorded: Recorded
    rows: IntArray
    """Decisions that are kept from all contenders."""
    parameters: FleetParameters
    rules: Mapping[str, ServedRule]
    general: ResidualModule | None
    """The general policy, if it serves fleets of this observation."""
    guards: Guards = NO_GUARDS

    def verdict(self, candidate: Seeing, rivals: Rivals) -> Verdict:
        """Who wins, by the demand that is kept and by how the champion does live."""
        targets = {CANDIDATE: self._targets(candidate)}
        for version, policy in rivals.policies.items():
            targets[version] = self._stepped(policy, self.rows)
        for name, rule in self.rules.items():
            targets[name] = self._targets(rule)
        incumbent = None if rivals.champion is None else rivals.champion.version
        if self.general is not None:
            targets[GENERAL] = self._targets(self.general)
            incumbent = incumbent or GENERAL
        return judge(
            targets,
            incumbent if incumbent in targets else None,
            self.recorded.history,
            self.parameters,
            self.rows,
            self._live(rivals),
            self.guards,
        )

    def made_for(self, winner: str) -> ServedRule | ResidualModule | None:
        """What the store does not have of a winner; None for a version and the candidate."""
        return self.general if winner == GENERAL else self.rules.get(winner)

    def _live(self, rivals: Rivals) -> Live | None:
        """The champion's live cost beside the runner-up's; None without a step or a runner-up."""
        champion = rivals.champion
        if champion is None or champion.runner_up is None:
            return None
        runner_up = rivals.policies.get(champion.runner_up)
        if runner_up is None:
            return None
        history = self.recorded.history
        served = served_by(champion.version, rivals.transitions, self.recorded, self.parameters)
        targets = self._stepped(runner_up, served.rows)
        counterfactual = instead_of(served, targets, history, self.parameters, self.guards)
        return watch(served.up, counterfactual, history, self.parameters, served.rows)

    def _targets(self, policy: Seeing) -> FloatArray:
        """What a policy would have asked for after each row, in servers."""
        return targets_of(policy, self.recorded.history, self.parameters, self.rows)

    def _stepped(self, policy: FleetPolicy, rows: IntArray) -> FloatArray:
        """As `_targets`, one step after the other: an artefact may read what it asked before."""
        if not len(rows):
            return np.empty(0)
        first = int(rows[0])
        decisions = decide(
            policy,
            self.recorded.history,
            self.parameters,
            first,
            int(rows[-1]) + 1,
        )
        stepped: FloatArray = decisions[rows - first]
        return stepped


def who_serves(
    store: PolicyStore,
    champion: Champion | None,
    demoted: Collection[str | None],
    parameters: FleetParameters,
) -> dict[str, FleetPolicy]:
    """The champion and the runner-up, of those that can serve, by version.

    A runner-up that was demoted before does not come back by itself.
    """
    found: dict[str, FleetPolicy] = {}
    if champion is None:
        return found
    runner_up = None if champion.runner_up in demoted else champion.runner_up
    for version in filter(None, (champion.version, runner_up)):
        try:
            found[version] = load_policy(store, champion.fleet, version, parameters)
        except PolicyError as error:
            _log.warning("contender_refused", fleet=champion.fleet, reason=str(error))
    return found
