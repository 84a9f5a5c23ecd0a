"""`autopilot backtest --dynamics lobby`: from its options to a report."""

import csv
import math
from pathlib import Path

import numpy as np

from services.cli import learner
from services.cli.artefacts import load_artefact
from services.cli.backtest import decisions_of, for_policy
from shared.core.arrays import FloatArray
from shared.core.history import History
from shared.core.lead_process import SHORTEST_LEAD
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyFleet
from shared.errors import BadInput, BadSetting, quoted
from shared.learning.backtest import Case
from shared.learning.budget import TrainingOptions
from shared.learning.extras import check_trainer, quiet_libraries
from shared.learning.lobby.backtest import (
    LobbyCase,
    LobbyReport,
    backtest_artefact,
    backtest_targets,
    backtest_trained,
)
from shared.learning.lobby.scoring import fleet_of
from shared.settings import FleetSettings, Settings

STEP_SECONDS = 65.0
"""Duration of a step in the simulated game. A row is a step, whatever the trace's interval is."""
LONGEST_LEAD = 1e6
"""Upper bound of a given lead, in steps."""


def check_lobby(fleet: FleetSettings) -> None:
    """Raise `BadSetting` if a setting applies to the notebook's dynamics only."""
    if fleet.reward == "notebook":
        raise BadSetting(
            "AUTOPILOT_REWARD=notebook is of the notebook's dynamics: leave it out, or give "
            "--dynamics notebook"
        )


def backtest_lobby(
    case: Case,
    fleet: FleetSettings,
    options: TrainingOptions,
    lead_times: Path | None,
    policy: Path | None,
    history_len: int | None,
    settings: Settings,
) -> LobbyReport:
    """Train a policy, or load the one in the folder `policy`, and compare it with rules.

    Raises `BadInput`.
    """
    scored = len(case.history.demands) - case.start
    leads = None if lead_times is None else read_lead_times(lead_times, scored)
    if policy is not None:
        artefact = load_artefact(policy, settings)
        case = for_policy(case, artefact.manifest, history_len)
        in_lobby = lobby_fleet(case.history, case.parameters, fleet)
        of_policy = LobbyCase.of(case, in_lobby, options.seed, leads)
        if artefact.manifest.lobby is not None:
            return backtest_artefact(of_policy, artefact)
        targets = decisions_of(case, artefact)
        return backtest_targets(of_policy, targets, version=artefact.version)
    check_trainer()
    quiet_libraries()
    from shared.learning.lobby.pretrained import pretrained_weights
    from shared.learning.lobby.training import train_lobby

    in_lobby = lobby_fleet(case.history, case.parameters, fleet)
    with learner.progress_bar() as tell:
        made = train_lobby(
            case.training,
            case.parameters,
            in_lobby,
            options.budget,
            options.seed,
            pretrained_weights(),
            tell,
        )
    return backtest_trained(LobbyCase.of(case, in_lobby, options.seed, leads), made)


def lobby_fleet(history: History, parameters: FleetParameters, fleet: FleetSettings) -> LobbyFleet:
    """The fleet for roll-outs, with its guards and the scheduled floors at the history's times."""
    return fleet_of(parameters, fleet.lobby(STEP_SECONDS), fleet.guards, history)


def read_lead_times(path: Path, scored: int) -> FloatArray:
    """Read the lead, in steps, at each scored row, ``(scored,)``; further rows are ignored.

    Raises `BadInput`.
    """
    leads: list[float] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "lead_steps" not in (rows.fieldnames or ()):
                raise BadInput(f"{path}: the first line must name the column lead_steps")
            for row in rows:
                leads.append(_lead(row["lead_steps"], f"{path}, line {rows.line_num}"))
                if len(leads) == scored:
                    break
    except OSError as error:
        raise BadInput(f"can't read the lead times {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a CSV file in UTF-8: {error}") from error
    if len(leads) < scored:
        raise BadInput(
            f"{path} has {len(leads)} rows, and {scored} steps are scored: give a row for each"
        )
    return np.array(leads)


def _lead(text: str | None, where: str) -> float:
    try:
        lead = float(text or "")
    except ValueError:
        raise BadInput(f"{where}: lead_steps {quoted(text)} is not a number") from None
    if not (math.isfinite(lead) and SHORTEST_LEAD <= lead <= LONGEST_LEAD):
        raise BadInput(
            f"{where}: lead_steps {quoted(text)} can't be: give {SHORTEST_LEAD:g} to "
            f"{LONGEST_LEAD:g} steps"
        )
    return lead
