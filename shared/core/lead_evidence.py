"""Estimates of the lead time from the observed starts: state in, state out, for many lanes."""

from typing import NamedTuple

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.lead_process import USUAL_LEAD
from shared.core.lobby import Ended

PRIOR_STEPS = 6.0
"""Assumed lead, in steps, before a start was observed, if the usual lead is `USUAL_LEAD`."""
FAST, MOST_FAST = 0.12, 0.6
"""Weight of each ended start in the fast moving average, and the maximum weight of a step."""
SLOW, MOST_SLOW = 0.02, 0.2
"""The same for the slow moving average."""


class LeadEvidence(NamedTuple):
    """Estimated steps from launch to the end of a start, shape ``(lanes,)`` each."""

    fast: FloatArray
    """Moving average over the last few starts."""
    slow: FloatArray
    """Moving average over many starts."""
    newest: FloatArray
    """Mean over the starts that ended in the last step with any."""
    oldest: FloatArray
    """Age, in steps, of the oldest server that is still starting; 0 if none is."""


def no_evidence(lanes: int, usual: float = USUAL_LEAD) -> LeadEvidence:
    """The prior, before a start was observed; `usual` is the typical start-up time in steps."""
    prior = np.full(lanes, PRIOR_STEPS * usual / USUAL_LEAD)
    return LeadEvidence(prior, prior, prior, np.zeros(lanes))


def seen(
    before: LeadEvidence, ended: Ended, start_steps: FloatArray, starting: FloatArray
) -> LeadEvidence:
    """The estimates after a step; `start_steps` is that of `Met`, `starting` of `LobbyState`."""
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
