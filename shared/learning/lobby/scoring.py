"""The fleet, the lead paths and the scores of roll-outs; nothing here is trained."""

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
"""Lead processes used in the search: more varied than usual, so that the rule is robust."""
PATHS = 16
"""Number of lead paths on which contenders are scored; all get the same ones."""
LATE_LEADS = 4.0
"""Multiple of the usual lead below which 95 % of the leads sampled from `PRIOR` are."""


def fleet_of(
    parameters: FleetParameters, lobby: Lobby, guards: Guards, history: History
) -> LobbyFleet:
    """A fleet whose usual lead is `history_len` steps, with the scheduled floor at each row's time.

    A scheduled floor rises so early that 95 % of the servers are up when the event begins.
    """
    usual = float(parameters.history_len)
    scheduled = None
    if guards.scheduled_floors:
        late = math.ceil(LATE_LEADS * usual)
        scheduled = np.array(guards.scheduled_at(history.times, late, history.step_seconds))
    limits = LobbyGuards(parameters.min_servers, parameters.max_servers, guards, scheduled)
    return LobbyFleet(lobby, limits, usual)


def quantile_of(lobby: Lobby) -> FloatArray:
    """Parameters with which both levels are the critical fractile of demand six steps ahead.

    Shape ``(16,)``. The underage cost is that of waiting, the overage cost that of an idle server.
    """
    weights = lobby.weights
    numbers = QUANTILE.copy()
    numbers[NAMES.index("level")] = float(logit(weights.waiting / (weights.waiting + weights.idle)))
    return numbers


def drawn_paths(
    kinds: tuple[Kind, ...], steps: int, seed: int, usual: float = USUAL_LEAD
) -> FloatArray:
    """Sample `PATHS` lead paths, ``(PATHS, steps)``; the kinds take turns."""
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
    """Roll out the rule with parameters `numbers` ``(16,)`` from row `first` to the end.

    One roll-out per lead path; `leads` is ``(paths, steps)``.
    """
    paths, steps = leads.shape
    rule = BandRule(np.tile(numbers, (paths, 1)), forecasts, fleet.usual_lead)
    starts = Starts(leads, np.arange(paths), 0)
    return scored(roll_out(rule, demands, starts, np.full(paths, first), steps, fleet))
