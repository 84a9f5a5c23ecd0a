"""Backtest in the lobby's dynamics: train on the first part, roll out every contender on the rest.

All contenders get the same demand and the same lead paths, and those that use forecasts get the
same forecasts. Everything that is learnt, limits and tuning included, comes from the rows before
the scored ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.band_rule import NAMES, BandRule, TargetRule, named
from shared.core.forecasts import Forecasts
from shared.core.history import History
from shared.core.lead_process import Kind, Starts
from shared.core.replay import observations_after
from shared.core.rollout import (
    BandPolicy,
    LedgerRow,
    LobbyFleet,
    LobbyScore,
    M,
    Step,
    first_lane_kept,
    roll_out,
    scored,
)
from shared.core.tuning import BUFFER, CONSTANT, RULES, SEASONAL, TREND_BUFFER, tune
from shared.learning.backtest import AUTOPILOT, Case
from shared.learning.lobby.scoring import PRIOR, drawn_paths
from shared.learning.lobby.search import CANDIDATES, Simulator
from shared.policies.runtime import LearntPolicy

if TYPE_CHECKING:
    from shared.learning.lobby.training import LobbyTraining

SCORED: tuple[Kind, ...] = ("regimes",)
"""Lead process of the scored paths if no lead times are given."""
TARGET_RULES = tuple(
    rule
    for rule in RULES
    if rule in (CONSTANT, BUFFER, TREND_BUFFER, SEASONAL) or rule.name == "target_tracking"
)
"""Autoscalers' rules: both levels of their bands are one target."""
_PATHS, _STARTS, _TUNED = 3, 4, 5
"""Added to the seed, so that the three uses of it sample independently."""


@dataclass(frozen=True, slots=True)
class LobbyCase:
    """The demand, fleet and lead paths on which contenders are rolled out."""

    case: Case
    fleet: LobbyFleet
    leads: FloatArray
    """Lead, in steps, on each path at each scored step; ``(paths, steps)``."""
    seed: int

    @classmethod
    def of(
        cls, case: Case, fleet: LobbyFleet, seed: int, lead_steps: FloatArray | None = None
    ) -> "LobbyCase":
        """With sampled lead paths, or with the one given: `lead_steps`, a lead per scored row."""
        steps = len(case.history.demands) - case.start
        if lead_steps is None:
            drawn = drawn_paths(SCORED, steps, seed + _PATHS, fleet.usual_lead)
            return cls(case, fleet, drawn, seed)
        return cls(case, fleet, lead_steps[np.newaxis, :steps], seed)

    @property
    def demands(self) -> FloatArray:
        """Demand of the whole series, in servers, ``(rows,)``."""
        return self.case.history.demands

    def rolled(self, policy: BandPolicy[M]) -> Iterator[Step]:
        """Roll out a policy over the scored part, with one lane per lead path."""
        paths, steps = self.leads.shape
        return roll_out(
            policy,
            self.demands,
            Starts(self.leads, np.arange(paths), self.seed + _STARTS),
            np.full(paths, self.case.start),
            steps,
            self.fleet,
        )

    def scored(self, policy: BandPolicy[M], ledger: list[LedgerRow] | None = None) -> LobbyScore:
        """Score of a policy; with a `ledger`, its steps on the first path are added to that."""
        rolled = self.rolled(policy)
        return scored(rolled if ledger is None else first_lane_kept(rolled, ledger))

    def rule(self, numbers: FloatArray, forecasts: Forecasts) -> BandRule:
        """The state-feedback rule with the parameters `numbers` ``(16,)`` on every path."""
        lanes = np.tile(numbers, (len(self.leads), 1))
        return BandRule(lanes, forecasts, self.fleet.usual_lead)

    @property
    def simulator(self) -> Simulator:
        """A simulator of the training part, for tuning."""
        return Simulator(self.demands[: self.case.start], PRIOR, self.fleet)


@dataclass(frozen=True, slots=True)
class LobbyOutcome:
    """Result of one contender."""

    score: LobbyScore
    chosen: Mapping[str, Any]
    """Its parameters, or the results of its training."""


@dataclass(frozen=True, slots=True)
class LobbyReport:
    """Result of a backtest: the case, and the outcome of every contender by name."""

    case: LobbyCase
    outcomes: Mapping[str, LobbyOutcome]
    steps: list[LedgerRow]
    """Steps of the autopilot's roll-out; lane 0 is the first lead path."""
    notes: list[str]

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document that `--json` writes."""
        case = self.case.case
        return {
            "trace": case.demand.name,
            "dynamics": "lobby",
            "steps": len(self.steps),
            "training_steps": case.start,
            "paths": len(self.case.leads),
            "cost_weights": asdict(self.case.fleet.lobby.weights),
            "parameters": asdict(case.parameters),
            "policies": {
                name: {
                    "cost_per_step": outcome.score.cost_per_step,
                    "standard_error": outcome.score.standard_error,
                    "waiting_mean": outcome.score.waiting_mean,
                    "waiting_p95": outcome.score.waiting_p95,
                    "matches_that_wait_pct": outcome.score.matches_that_wait_pct,
                    "idle_server_steps": outcome.score.idle_server_steps,
                    "launches": outcome.score.launches,
                    "lost": outcome.score.lost,
                    "chosen": dict(outcome.chosen),
                }
                for name, outcome in self.outcomes.items()
            },
            "notes": self.notes,
        }


def backtest_trained(case: LobbyCase, made: "LobbyTraining") -> LobbyReport:
    """Compare the trained policy with its training's contenders and with autoscalers' rules."""
    forecasts = made.forecasts(case.case.history, case.case.parameters)
    ledgers: dict[str, list[LedgerRow]] = {name: [] for name in made.numbers}
    outcomes = {
        name: LobbyOutcome(
            case.scored(case.rule(numbers, forecasts), ledgers[name]), named(numbers)
        )
        for name, numbers in made.numbers.items()
    }
    serving = LobbyOutcome(
        outcomes[made.winner].score,
        {
            "kind": made.winner,
            "rule": made.named_numbers,
            "held_out_costs": dict(made.costs),
            "stage_seconds": dict(made.stage_seconds),
            "seed": case.seed,
        },
    )
    rules = target_rules(case)
    return LobbyReport(case, {AUTOPILOT: serving, **outcomes, **rules}, ledgers[made.winner], [])


def backtest_artefact(case: LobbyCase, artefact: LearntPolicy) -> LobbyReport:
    """Compare a policy of the lobby's dynamics, loaded from its files, with autoscalers' rules."""
    rule = artefact.manifest.lobby
    assert rule is not None, "the caller has looked"
    history, parameters = case.case.history, case.case.parameters
    rows = np.arange(len(history.demands))
    seen = observations_after(history, artefact.fields, parameters, rows, artefact.lead_steps)
    demands = parameters.within_limits(history.demands)
    forecasts = Forecasts.of(artefact.quantiles(seen), demands)
    numbers = np.array([rule.numbers[name] for name in NAMES])
    policy = case.rule(numbers, forecasts)
    chosen = {"version": artefact.version, "rule": rule.numbers}
    ledger: list[LedgerRow] = []
    serving = LobbyOutcome(case.scored(policy, ledger), chosen)
    return LobbyReport(case, {AUTOPILOT: serving, **target_rules(case)}, ledger, [])


def backtest_targets(case: LobbyCase, targets: FloatArray, **chosen: Any) -> LobbyReport:
    """Compare a policy that requests single targets with autoscalers' rules.

    `targets`: servers after each row, ``(rows,)``; `chosen` goes into the report.
    """
    policy = TargetRule(targets)
    ledger: list[LedgerRow] = []
    serving = LobbyOutcome(case.scored(policy, ledger), chosen)
    return LobbyReport(case, {AUTOPILOT: serving, **target_rules(case)}, ledger, [])


def target_rules(case: LobbyCase) -> dict[str, LobbyOutcome]:
    """Outcomes of autoscalers' rules, each with the margin of lowest cost in the simulator."""
    parameters, history = case.case.parameters, case.case.history
    simulator = case.simulator
    outcomes = {}
    for rule in TARGET_RULES:
        tuned = tune(rule, case.case.training, parameters)
        targets = rule.forecast(history, parameters, **tuned.setting)
        times, added = _margins(rule.margin, case.case.training)
        costs = simulator.target_costs(
            targets, times, added, np.random.default_rng(case.seed + _TUNED)
        )
        best = int(np.argmin(costs))
        policy = TargetRule(targets, float(times[best]), float(added[best]))
        outcomes[rule.name] = LobbyOutcome(
            case.scored(policy),
            {**tuned.setting, "times": float(times[best]), "added": float(added[best])},
        )
    return outcomes


def _margins(margin: str, training: History) -> tuple[FloatArray, FloatArray]:
    """Candidates ``(times, added)`` of the margin; `added` goes up to the highest demand seen."""
    ones, nothing = np.ones(CANDIDATES), np.zeros(CANDIDATES)
    if margin == "times":
        return np.linspace(0.9, 2.5, CANDIDATES), nothing
    # Denser at small margins, where most fleets' optima are.
    return ones, float(training.demands.max()) * np.linspace(0.0, 1.1, CANDIDATES) ** 2
