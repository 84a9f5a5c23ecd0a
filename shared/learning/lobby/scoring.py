"""The fleet, the lead paths and the scores of roll-outs: nothing here learns."""

import math

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.band_rule import NAMES, QUANTILE, BandRule
from shared.core.forecasts import Forecasts, logit
from shared.core.guards import Guards
from shared.core.history import History
from shared.core.lead_process import USUAL_LEAD, Kind, Starts, lead_paths
from shared.core.lobby import Lobby
from shared.core.lobby_guards import LobbyGuards
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyFleet, LobbyScore, roll_out, scored

PRIOR: tuple[Kind, ...] = ("regimes", "regimes", "lognormal", "slowdown")
"""Lead processes that the rule is searched on: wider than what is usual, so that it is ready."""
PATHS = 16
"""Lead paths that contenders are rolled out on, the same for all."""
LATE_LEADS = 4.0
"""Times the usual lead: 0.95 of the prior's leads are below."""


def fleet_of(
    parameters: FleetParameters, lobby: Lobby, guards: Guards, history: History
) -> LobbyFleet:
    """A fleet whose servers usually take `history_len` steps, with floors for each row's time.

    A scheduled floor rises so early that servers are up in time but for the slowest twentieth.
    """
    usual = float(parameters.history_len)
    scheduled = None
    if guards.scheduled_floors:
        late = math.ceil(LATE_LEADS * usual)
        scheduled = np.array(guards.scheduled_at(history.times, late, history.step_seconds))
    limits = LobbyGuards(parameters.min_servers, parameters.max_servers, guards, scheduled)
    return LobbyFleet(lobby, limits, usual)


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
    fleet: LobbyFleet,
) -> LobbyScore:
    """Roll the rule out from row `first` to the end, on each of the lead paths."""
    paths, steps = leads.shape
    rule = BandRule(np.tile(numbers, (paths, 1)), forecasts, fleet.usual_lead)
    starts = Starts(leads, np.arange(paths), 0)
    return scored(roll_out(rule, demands, starts, np.full(paths, first), steps, fleet))
