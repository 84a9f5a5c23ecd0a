"""Export a policy of the lobby's dynamics as SavedModel and LiteRT, and verify both against it."""

from pathlib import Path

import numpy as np

from shared.core.arrays import FloatArray
from shared.core.parameters import FleetParameters
from shared.errors import PolicyDisagrees
from shared.learning.export.agreement import (
    TOLERANCE,
    Observations,
    random_observations,
    run_litert,
    run_saved_model,
)
from shared.learning.export.tf_lobby import ServedLobbyPolicy
from shared.learning.export.writer import write_graph
from shared.learning.lobby.policy import LobbyPolicy, told_of
from shared.learning.models.features import FORECAST, OUTPUT


def export_lobby(policy: LobbyPolicy, folder: Path) -> None:
    """Write `tf-model/00000001` and `policy.tflite` into an artefact's folder.

    Both have the outputs `policy`, the recommended target as an action, and `forecast`, quantiles.
    """
    served = ServedLobbyPolicy(policy)
    write_graph(served, served.decide, served.decide, len(policy.fields), folder)


def check_lobby_agreement(
    policy: LobbyPolicy, folder: Path, parameters: FleetParameters, rng: np.random.Generator
) -> None:
    """Raise `PolicyDisagrees` if the forecasts or actions of a file differ from the policy's.

    Forecasts may differ by `TOLERANCE` in units of the action. Actions may differ by as much as
    such a difference can change a target that is rounded up to whole servers.
    """
    observations = random_observations(policy.fields, parameters, rng)
    observations[:, -parameters.history_len :] = np.round(
        observations[:, -parameters.history_len :]
    )
    quantiles = policy.quantiles(observations)
    slack = TOLERANCE * parameters.action_factor
    least, most = (_actions(policy, observations, quantiles + by) for by in (-slack, slack))
    for name, run in (("SavedModel", run_saved_model), ("LiteRT", run_litert)):
        forecasts = run(folder, observations, FORECAST)
        difference = float(np.abs(forecasts.reshape(quantiles.shape) - quantiles).max())
        if not difference <= slack:  # NaN is a disagreement
            raise PolicyDisagrees(
                f"forecasts of {name} and the policy differ by {difference:g} servers, at most "
                f"{slack:g} is allowed: the version is not published"
            )
        actions = run(folder, observations, OUTPUT)
        low, high = np.minimum(least, most) - TOLERANCE, np.maximum(least, most) + TOLERANCE
        if not ((low <= actions) & (actions <= high)).all():
            raise PolicyDisagrees(
                f"{name} and the policy tell different numbers of the same forecasts: the version "
                "is not published"
            )


def _actions(policy: LobbyPolicy, observations: Observations, quantiles: FloatArray) -> FloatArray:
    last = observations[:, policy.fields.index("demand[-1]")].astype(np.float64)
    targets = observations[:, -policy.parameters.history_len :].astype(np.float64)
    return told_of(np.maximum(quantiles, 0.0), last, targets, policy.numbers, policy.parameters)
