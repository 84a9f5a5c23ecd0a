"""A backtest: train on the first part of recorded demand, replay and score all on the rest.

The scored part is the last `1 - train_fraction` of the rows. Everything, limits and tuning
included, comes from the rows before it. All policies decide over the whole series, so that the
allocations of the first scored step were requested by the policy that is scored.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shared.core.arrays import FloatArray
from shared.core.evaluation import Score, score
from shared.core.history import History, part
from shared.core.parameters import FleetParameters
from shared.core.replay import Replay, decide, limits_of, replay
from shared.core.rules import oracle
from shared.core.tuning import LIVE_RULE, RULES, tune
from shared.learning.budget import TrainingOptions
from shared.learning.forecasters import fit_forecasters
from shared.settings import FleetSettings

if TYPE_CHECKING:
    from shared.learning.progress import Progress

AUTOPILOT = "autopilot"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class RecordedDemand:
    """Demand in servers, one row per step."""

    name: str
    timestamps: tuple[datetime, ...]
    history: History
    has_limits: bool
    """Whether the fleet's settings give its limits; those of a trace come from its data."""


@dataclass(frozen=True, slots=True)
class Case:
    """Demand to train and to score on, and the limits that hold for every policy."""

    demand: RecordedDemand
    start: int
    """First scored row."""
    parameters: FleetParameters

    @property
    def history(self) -> History:
        return self.demand.history

    @property
    def first_decision(self) -> int:
        """The row after which a policy begins to serve: that decision meets row `start`."""
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
    """The result of one policy."""

    replay: Replay
    score: Score
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Its parameters, or the figures of its training."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a backtest: the case, every policy's outcome, and notes for the reader."""

    case: Case
    outcomes: Mapping[str, Outcome]
    notes: list[str]
    dynamics: str = "notebook"
    """The dynamics in which the outcomes were scored."""

    @property
    def document(self) -> dict[str, Any]:
        """The JSON of `--json`."""
        parameters = self.case.parameters
        return {
            "trace": self.case.demand.name,
            "dynamics": self.dynamics,
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


def parameters_for(
    recorded: RecordedDemand, training_rows: int, fleet: FleetSettings, history_len: int | None
) -> FleetParameters:
    """The fleet's parameters, with limits from the first `training_rows` unless they are set.

    Raises `BadSetting` for settings that contradict each other.
    """
    given = fleet.model_fields_set
    parameters = fleet.parameters
    if not recorded.has_limits:
        low, high, factor = limits_of(recorded.history.demands[:training_rows])
        parameters = replace(
            parameters,
            min_servers=parameters.min_servers if "min_servers" in given else float(low),
            max_servers=parameters.max_servers if "max_servers" in given else float(high),
            action_factor=parameters.action_factor if "action_factor" in given else float(factor),
        )
    if "observation" not in given:
        parameters = replace(parameters, observation="calendar")
    return parameters if history_len is None else replace(parameters, history_len=history_len)


def baselines(case: Case) -> tuple[dict[str, Outcome], list[str]]:
    """Outcomes of every tuned rule, every forecaster and the oracle.

    Returns ``(outcomes by name, notes)``; rules and forecasters are fitted to the training part.
    """
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


def trained(
    case: Case,
    options: TrainingOptions,
    on_progress: "Callable[[Progress], None]" = lambda _: None,
) -> Outcome:
    """The outcome of the policy that is selected after training. Ray must be running."""
    from shared.learning.from_trace import train_on

    made = train_on(case.training, case.parameters, options, on_progress=on_progress)
    return case.outcome(
        decide(made.policy, case.history, case.parameters, since=case.first_decision),
        kind=made.kind,
        beside=made.decision.beside,
        held_out_costs=made.costs,
        environment_steps=made.trained.environment_steps,
        hindsight_decisions=made.trained.hindsight_decisions,
        stage_seconds=made.trained.stage_seconds,
        scores=made.trained.scores,
        seed=options.seed,
        steps=options.budget.steps,
    )


def selection_notes(outcome: Outcome) -> list[str]:
    """A note where the selected policy is not the trained one alone."""
    worse = "the trained policy cost more on the held-out part of the history"
    if beside := outcome.chosen.get("beside"):
        return [f"{AUTOPILOT} is a mixture with {beside}, of half the weight at first: {worse}"]
    kind = outcome.chosen.get("kind", "learnt")
    return [] if kind == "learnt" else [f"{AUTOPILOT} is {kind}: {worse}"]
