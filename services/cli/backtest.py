"""`autopilot backtest`: learn on the first part of recorded demand, replay the rest.

The scored part is the last `1 - train_fraction` of the rows. Everything, limits and tuning
included, comes from the rows before it. All policies decide over the whole series, so that the
allocations of the first scored step were asked for by the policy that is scored.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from services.cli.artefacts import check_history_len, load_artefact
from services.cli.demand import RecordedDemand, Source, parameters_for
from services.cli.forecasters import fit_forecasters
from services.cli.learner import Told, learn
from services.trainer.budget import TrainingOptions
from shared.core.backtest import FloatArray, Replay, decide, part, replay
from shared.core.baselines import oracle
from shared.core.evaluation import Score, score
from shared.core.observation import History
from shared.core.parameters import FleetParameters
from shared.core.tuning import LIVE_RULE, RULES, tune
from shared.errors import BadInput
from shared.messages import PolicyManifest
from shared.policies import FleetPolicy
from shared.settings import FleetSettings, Settings

AUTOPILOT = "autopilot"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Case:
    """Demand to learn from and to score on, and the limits that hold for every policy."""

    demand: RecordedDemand
    start: int
    """First scored row."""
    parameters: FleetParameters

    @property
    def history(self) -> History:
        return self.demand.history

    @property
    def in_charge(self) -> int:
        """The row after which a policy begins to serve: its first decision meets row `start`."""
        return max(self.start - self.parameters.lead_steps, 0)

    @property
    def training(self) -> History:
        return part(self.history, 0, self.start)

    def outcome(self, decisions: FloatArray, **chosen: Any) -> "Outcome":
        """Replay and score decisions made after each row."""
        replayed = replay(decisions, self.parameters)
        scored = score(
            replayed.allocations[self.start :],
            self.history.demands[self.start :],
            self.parameters.over_prov_factor,
        )
        return Outcome(replayed, scored, chosen)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy did."""

    replay: Replay
    score: Score
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Its parameters, or the figures of its training."""


@dataclass(frozen=True, slots=True)
class Report:
    """A backtest's end: the case, every policy's outcome, and what is to be said beside them."""

    case: Case
    outcomes: Mapping[str, Outcome]
    notes: list[str]

    @property
    def document(self) -> dict[str, Any]:
        """The JSON of `--json`."""
        parameters = self.case.parameters
        return {
            "trace": self.case.demand.name,
            "steps": self.outcomes[AUTOPILOT].score.steps,
            "training_steps": self.case.start,
            "cost_weights": {"over": 1, "under": parameters.over_prov_factor},
            "parameters": asdict(parameters),
            "policies": {
                name: {
                    "cost_per_step": outcome.score.cost_per_step,
                    "under_steps_pct": outcome.score.under_steps_pct,
                    "unserved_server_steps": outcome.score.unserved_server_steps,
                    "idle_server_steps": outcome.score.idle_server_steps,
                    "chosen": dict(outcome.chosen),
                }
                for name, outcome in self.outcomes.items()
            },
            "notes": self.notes,
        }


def prepare(
    source: Source, fleet: FleetSettings, train_fraction: float, history_len: int | None
) -> Case:
    """Read, split, and find the limits. Raises `BadInput`."""
    if not 0 < train_fraction < 1:
        raise BadInput(f"--train-fraction is {train_fraction:g}: give a number between 0 and 1")
    demand = source.read(fleet, train_fraction)
    rows = len(demand.history.demands)
    start = int(train_fraction * rows)
    parameters = parameters_for(demand, max(start, 1), fleet, history_len)
    # A decision of the training part has to see a history and to meet its demand.
    least = parameters.history_len + parameters.lead_steps
    if start < least or start == rows:
        raise BadInput(
            f"{demand.name} has {rows} rows, {start} of them to learn from, and a lead time of "
            f"{parameters.history_len} steps needs {least}: give a longer trace"
        )
    return Case(demand, start, parameters)


def for_policy(case: Case, manifest: PolicyManifest, history_len: int | None) -> Case:
    """The same demand with the lead time and the action factor that a policy was learnt for."""
    check_history_len(manifest, history_len)
    parameters = replace(
        case.parameters,
        history_len=manifest.history_len,
        action_factor=manifest.action_factor,
    )
    return replace(case, parameters=parameters)


def baselines(case: Case) -> tuple[dict[str, Outcome], list[str]]:
    """Every rule and forecaster, tuned on the training part, and the oracle; and the notes."""
    history, parameters = case.history, case.parameters
    outcomes = {}
    for rule in (*RULES, LIVE_RULE):
        tuned = tune(rule, case.training, parameters)
        outcomes[rule.name] = case.outcome(
            tuned.decisions(history, parameters),
            **tuned.setting,
            margin=tuned.margin,
            training_cost=tuned.training_cost,
        )
    forecasters, notes = fit_forecasters(case.training, parameters)
    for name, forecaster in forecasters.items():
        outcomes[name] = case.outcome(forecaster.decisions(history, parameters))
    outcomes[ORACLE] = case.outcome(oracle(history, parameters))
    return outcomes, notes


def learnt(case: Case, options: TrainingOptions, tell: Told = lambda _, __: None) -> Outcome:
    """What serves after learning from the training part; within `learner.trainer`."""
    made = learn(case.training, case.parameters, options, tell)
    return case.outcome(
        decide(made.policy, case.history, case.parameters, since=case.in_charge),
        kind=made.kind,
        beside=made.decision.beside,
        held_out_costs=made.costs,
        environment_steps=made.learnt.environment_steps,
        hindsight_decisions=made.learnt.hindsight_decisions,
        stage_seconds=made.learnt.stage_seconds,
        scores=made.learnt.scores,
        seed=options.seed,
        steps=options.budget.steps,
    )


def what_serves(outcome: Outcome) -> list[str]:
    """A note where it is not what was learnt."""
    worse = "what was learnt did worse on the held-out part of the history"
    if beside := outcome.chosen.get("beside"):
        return [f"{AUTOPILOT} has {beside} beside it, which counts for half at first: {worse}"]
    kind = outcome.chosen.get("kind", "learnt")
    return [] if kind == "learnt" else [f"{AUTOPILOT} is {kind}: {worse}"]


def replayed(
    case: Case, folder: Path, history_len: int | None, settings: Settings
) -> tuple[Case, Outcome]:
    """A policy artefact over the whole series, and the case as the policy needs it."""
    policy = load_artefact(folder, settings)
    case = for_policy(case, policy.manifest, history_len)
    served = FleetPolicy(policy.manifest, case.parameters, lambda: policy)
    decisions = decide(served, case.history, case.parameters, since=case.in_charge)
    return case, case.outcome(decisions, version=policy.version)
