"""The pretrained nets in the package: half of every fleet's nets are initialised with them."""

from pathlib import Path

import numpy as np

from shared.learning.lobby.forecasting import Weights

NETS = "pretrained_nets.npz"
"""File in this folder; `autopilot train --demand synthetic --dynamics lobby` makes it again."""


def pretrained_weights() -> Weights:
    """Weights by name, as `QuantileNets.get_state` returns them."""
    with np.load(Path(__file__).with_name(NETS)) as weights:
        return dict(weights)
