"""Train a policy for the lobby's dynamics: fit forecasts, search the rule's numbers, choose.

Nets are fitted to all of the recorded demand, each fold of it left out by some of them; the rule is
searched on what the nets say of the folds that they have not seen, and chosen on the last part.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from shared.core.arrays import FloatArray
from shared.core.band_rule import NAMES
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
"""Last part of the recorded demand, which the rule is not searched on but chosen."""
MOST_HELD_OUT = 3_000
"""Rows of it: two days at 65 s."""
LEAST_ROWS = 120
"""Recorded rows below which there is too little to search on."""
FIT_PART, PLAIN_PART, SEARCH_PART = 0.45, 0.2, 0.3
"""Of the time: for the nets, the plain rule, the whole rule."""
LEARNT = "learnt"
"""Kind of its policies: the nets are, whatever numbers the rule has."""
ADAPTIVE, TUNED, ONE_QUANTILE = "adaptive_rule", "tuned_rule", "quantile"
"""Contenders by name: the rule with all of its numbers, with the plain ones, with one quantile."""

_SEARCHED, _CHOSEN_ON = 1, 2
"""Of a seed: no two stages draw the same lead paths."""


@dataclass(frozen=True, slots=True)
class LobbyTraining:
    """What was fitted and found, and what serves."""

    forecaster: Forecaster
    numbers: Mapping[str, FloatArray]
    """The rule's sixteen numbers, by contender."""
    winner: str
    """Of `numbers`, what serves."""
    costs: Mapping[str, float]
    """Servers per step on the held-out part, by contender."""
    stage_seconds: Mapping[str, float]

    def forecasts(self, history: History, parameters: FleetParameters) -> Forecasts:
        """After each row, as `Forecaster.forecasts`."""
        return self.forecaster.forecasts(history, parameters)

    @property
    def named_numbers(self) -> dict[str, float]:
        """Of what serves."""
        return dict(zip(NAMES, self.numbers[self.winner].tolist(), strict=True))


def lobby_policy(made: LobbyTraining, parameters: FleetParameters) -> LobbyPolicy:
    """What serves, as it is exported."""
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
    """Train on all of a history within the budget; `tell` hears the part done, and on what.

    Of a budget of steps its counts hold and not its steps: there is no PPO. Raises `BadInput` where
    there is too little to learn from.
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
