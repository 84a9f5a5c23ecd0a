"""Train a policy for the lobby's dynamics: fit forecasts, search the rule's numbers, choose.

Nets are fitted to all of the recorded demand, each fold of it left out by some of them; the rule is
searched on what the nets say of the folds that they have not seen, and chosen on the last part.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.band_rule import NAMES, QUANTILE, BandRule
from shared.core.forecasts import Forecasts, logit
from shared.core.history import History
from shared.core.lead_process import USUAL_LEAD, Kind, Starts, lead_paths
from shared.core.lobby import Lobby
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyScore, roll_out, scored
from shared.errors import BadInput
from shared.learning.budget import Budget
from shared.learning.lobby.forecasting import Forecaster, Weights, fit
from shared.learning.lobby.policy import LobbyPolicy
from shared.learning.lobby.search import SearchBudget, Simulator, search, search_plain
from shared.learning.progress import Stages
from shared.learning.threads import use_one_thread
from shared.recorded_demand import Recorded, replayable

PRIOR: tuple[Kind, ...] = ("regimes", "regimes", "lognormal", "slowdown")
"""Lead processes that the rule is searched on: wider than what is usual, so that it is ready."""
PATHS = 16
"""Lead paths that contenders are rolled out on, the same for all."""
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

    @property
    def named_numbers(self) -> dict[str, float]:
        """Of what serves."""
        return dict(zip(NAMES, self.numbers[self.winner].tolist(), strict=True))


def lobby_policy(made: LobbyTraining, parameters: FleetParameters) -> LobbyPolicy:
    """What serves, as it is exported."""
    return LobbyPolicy(made.forecaster.nets, made.named_numbers, parameters)


def usual_lead(parameters: FleetParameters) -> float:
    """Steps that servers usually take: the middle of the prior."""
    return float(parameters.history_len)


def train_lobby(
    history: History,
    parameters: FleetParameters,
    lobby: Lobby,
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
    forecasts = forecasts_of(forecaster, recorded.history, parameters)
    stages.done("calibration")
    cut = int((1.0 - HELD_OUT) * rows)
    limits = (parameters.min_servers, parameters.max_servers)
    demands = recorded.history.demands
    usual = usual_lead(parameters)
    simulator = Simulator(demands[:cut], PRIOR, lobby, limits, usual)
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
    numbers = {ADAPTIVE: adaptive, TUNED: plain, ONE_QUANTILE: quantile_of(lobby)}
    kept = max(cut, rows - MOST_HELD_OUT)
    leads = drawn_paths(PRIOR, rows - kept, seed + _CHOSEN_ON, usual)
    costs = {
        name: score_rule(one, forecasts, demands, kept, leads, lobby, limits, usual).cost_per_step
        for name, one in numbers.items()
    }
    stages.done("selection")
    return LobbyTraining(
        forecaster, numbers, min(costs, key=costs.__getitem__), costs, stages.seconds
    )


def forecasts_of(
    forecaster: Forecaster, history: History, parameters: FleetParameters
) -> Forecasts:
    """Forecasts after each row, calibrated on demand within the limits as it comes."""
    demands = parameters.within_limits(history.demands)
    return Forecasts.of(forecaster.quantiles(history, parameters), demands)


def quantile_of(lobby: Lobby) -> FloatArray:
    """The critical fractile of the demand six steps ahead, raised and lowered to at once."""
    weights = lobby.weights
    numbers = QUANTILE.copy()
    numbers[NAMES.index("level")] = float(logit(weights.waiting / (weights.waiting + weights.idle)))
    return numbers


def drawn_paths(
    kinds: tuple[Kind, ...], steps: int, seed: int, usual: float = USUAL_LEAD
) -> FloatArray:
    """`PATHS` lead paths of so many steps, one of each kind after the other."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [lead_paths(kinds[path % len(kinds)], 1, steps, rng, usual) for path in range(PATHS)]
    )


def score_rule(
    numbers: FloatArray,
    forecasts: Forecasts,
    demands: FloatArray,
    first: int,
    leads: FloatArray,
    lobby: Lobby,
    limits: tuple[float, float],
    usual: float,
) -> LobbyScore:
    """Roll the rule out from row `first` to the end, on each of the lead paths."""
    paths, steps = leads.shape
    rule = BandRule(np.tile(numbers, (paths, 1)), forecasts, usual)
    starts = Starts(leads, np.arange(paths), 0)
    return scored(roll_out(rule, demands, starts, np.full(paths, first), steps, lobby, limits))
