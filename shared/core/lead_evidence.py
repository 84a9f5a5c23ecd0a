"""What the starts that were seen tell of the lead time: state in, state out, many lanes at once."""

from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.lead_process import USUAL_LEAD
from shared.core.lobby import Ended

PRIOR_STEPS = 6.0
"""Lead that is assumed before a start was seen, where servers usually take `USUAL_LEAD`."""
FAST, MOST_FAST = 0.12, 0.6
"""Weight of each ended start in the fast average, and at most of a step's."""
SLOW, MOST_SLOW = 0.02, 0.2


class LeadEvidence(NamedTuple):
    """Steps from launch to end, shape ``(lanes,)`` each."""

    fast: FloatArray
    """Average over the last starts."""
    slow: FloatArray
    """Average over many."""
    newest: FloatArray
    """Of those that ended last."""
    oldest: FloatArray
    """Age of the oldest server that is still starting; 0 where none is."""


def no_evidence(lanes: int, usual: float = USUAL_LEAD) -> LeadEvidence:
    """Before a start was seen, where servers usually take `usual` steps."""
    prior = np.full(lanes, PRIOR_STEPS * usual / USUAL_LEAD)
    return LeadEvidence(prior, prior, prior, np.zeros(lanes))


def seen(
    before: LeadEvidence, ended: Ended, start_steps: FloatArray, starting: FloatArray
) -> LeadEvidence:
    """After a step; `start_steps` as in `Met`, `starting` as in `LobbyState`."""
    some = ~np.isnan(start_steps)
    took = np.where(some, start_steps, 0.0)
    number = ended.came_up + ended.failed
    fast = np.where(some, np.minimum(FAST * number, MOST_FAST), 0.0)
    slow = np.where(some, np.minimum(SLOW * number, MOST_SLOW), 0.0)
    there = starting[:, ::-1] > 0
    oldest = np.where(there.any(axis=1), starting.shape[1] - 1 - there.argmax(axis=1), 0)
    return LeadEvidence(
        before.fast + fast * (took - before.fast),
        before.slow + slow * (took - before.slow),
        np.where(some, took, before.newest),
        oldest.astype(np.float64),
    )
