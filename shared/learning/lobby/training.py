"""Train a policy for the lobby's dynamics: fit forecasts, search the rule, select a contender.

The nets are fitted to all of the recorded demand, but each fold is left out by some of them. The
rule is searched on the out-of-fold forecasts of the first part; the contender with the lowest cost
on the held-out last part is selected.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from shared.core.arrays import FloatArray
from shared.core.band_rule import named
from shared.core.forecasts import Forecasts
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyFleet
from shared.errors import BadInput
from shared.learning.budget import Budget
from shared.learning.lobby.forecasting import Forecaster, Weights, fit
from shared.learning.lobby.policy import LobbyPolicy
from shared.learning.lobby.scoring import PRIOR, drawn_paths, quantile_of, score_rule
from shared.learning.lobby.search import SearchBudget, Simulator, search, search_plain
from shared.learning.progress import Stages
from shared.learning.threads import use_one_thread
from shared.recorded_demand import Recorded, replayable

HELD_OUT = 0.15
"""Fraction of the recorded demand, at its end, that is used for selection and not for search."""
MOST_HELD_OUT = 3_000
"""Maximum number of held-out rows: two days at 65 s."""
LEAST_ROWS = 120
"""Minimum number of recorded rows to train on."""
FIT_PART, PLAIN_PART, SEARCH_PART = 0.45, 0.2, 0.3
"""Fractions of the time budget for the nets, the plain rule and the adaptive rule."""
LEARNT = "learnt"
"""Kind of these policies in a manifest: the nets are learnt, whichever rule is selected."""
ADAPTIVE, TUNED, ONE_QUANTILE = "adaptive_rule", "tuned_rule", "quantile"
"""Names of the contenders: the rule with all sixteen parameters, the plain rule, one quantile."""

_SEARCHED, _CHOSEN_ON = 1, 2
"""Added to the seed, so that search and selection sample different lead paths."""


@dataclass(frozen=True, slots=True)
class LobbyTraining:
    """Result of a training: the nets, the contenders and which of them was selected."""

    forecaster: Forecaster
    numbers: Mapping[str, FloatArray]
    """Parameters of the rule by contender, ``(16,)`` each."""
    winner: str
    """Name of the selected contender, a key of `numbers`."""
    costs: Mapping[str, float]
    """Mean cost per step on the held-out part, by contender; in units of `CostWeights`."""
    stage_seconds: Mapping[str, float]

    def forecasts(self, history: History, parameters: FleetParameters) -> Forecasts:
        """Calibrated forecasts after each row, as `Forecaster.forecasts` returns them."""
        return self.forecaster.forecasts(history, parameters)

    @property
    def named_numbers(self) -> dict[str, float]:
        """Parameters of the selected contender, by name."""
        return named(self.numbers[self.winner])


def lobby_policy(made: LobbyTraining, parameters: FleetParameters) -> LobbyPolicy:
    """The selected policy in the form that is exported."""
    return LobbyPolicy(made.forecaster.nets, made.named_numbers, parameters)


def train_lobby(
    history: History,
    parameters: FleetParameters,
    fleet: LobbyFleet,
    budget: Budget,
    seed: int,
    pretrained: Weights | None = None,
    tell: Callable[[float, str], None] = lambda _, __: None,
) -> LobbyTraining:
    """Train on all of a history, within the budget.

    If the budget is in steps, its number of hindsight updates applies; its steps do not, because
    there is no PPO. `tell` is called with the completed fraction and the name of the stage. Raises
    `BadInput` if the history is too short.
    """
    rows = len(history.demands)
    if rows < LEAST_ROWS:
        raise BadInput(
            f"there are {rows} rows to learn from, and the lobby's dynamics need {LEAST_ROWS}: "
            "give a longer trace"
        )
    use_one_thread()
    stages, began = Stages(), time.monotonic()
    seconds = budget.seconds if budget.timed else inf
    recorded = replayable(Recorded.unbroken(history), parameters)
    forecaster = fit(
        recorded,
        parameters,
        seed,
        FIT_PART * seconds,
        None if budget.timed else budget.hindsight_updates,
        pretrained,
        lambda part: tell(FIT_PART * part, "forecasts"),
    )
    stages.done("forecasts")
    forecasts = forecaster.forecasts(recorded.history, parameters)
    stages.done("calibration")
    cut = int((1.0 - HELD_OUT) * rows)
    demands = recorded.history.demands
    simulator = Simulator(demands[:cut], PRIOR, fleet)
    searches = SearchBudget(until=began + (FIT_PART + PLAIN_PART) * seconds)
    plain = search_plain(
        simulator,
        forecasts,
        seed + _SEARCHED,
        searches,
        lambda part: tell(FIT_PART + PLAIN_PART * part, "rule"),
    )
    stages.done("plain rule")
    searches = SearchBudget(until=began + (FIT_PART + PLAIN_PART + SEARCH_PART) * seconds)
    adaptive = search(
        simulator,
        forecasts,
        plain,
        seed + _SEARCHED,
        searches,
        lambda part: tell(FIT_PART + PLAIN_PART + SEARCH_PART * part, "adaptive rule"),
    )
    stages.done("adaptive rule")
    numbers = {ADAPTIVE: adaptive, TUNED: plain, ONE_QUANTILE: quantile_of(fleet.lobby)}
    kept = max(cut, rows - MOST_HELD_OUT)
    leads = drawn_paths(PRIOR, rows - kept, seed + _CHOSEN_ON, fleet.usual_lead)
    costs = {
        name: score_rule(one, forecasts, demands, kept, leads, fleet).cost_per_step
        for name, one in numbers.items()
    }
    stages.done("selection")
    return LobbyTraining(
        forecaster, numbers, min(costs, key=costs.__getitem__), costs, stages.seconds
    )
