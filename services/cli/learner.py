"""Training for the commands; the libraries of the extra `trainer` are loaded only when needed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from services.cli.files import hidden_folder
from shared.core.forecasts import HORIZONS, LEVELS
from shared.core.history import History
from shared.core.parameters import FleetParameters
from shared.core.rollout import LobbyFleet
from shared.learning.budget import TrainingOptions
from shared.learning.extras import check_trainer, quiet_libraries
from shared.messages import LobbyRule, PolicyManifest
from shared.policies.runtime import PRETRAINED
from shared.policies.store import CHECKPOINT, new_version, seal
from shared.policies.store_seal import SigningKey

if TYPE_CHECKING:
    from shared.learning.progress import Progress as Reached

ReportProgress = Callable[[float, str], None]
"""Reports progress: the completed fraction, 0 to 1, and a text with metrics."""


@contextmanager
def trainer() -> Iterator[None]:
    """Ray runs in the block. Raises `BadInput` when the extra is not installed."""
    check_trainer()
    quiet_libraries()
    from shared.learning.ppo.ray_session import ray_session

    with ray_session():
        yield


def reporting(options: TrainingOptions, tell: ReportProgress) -> Callable[["Reached"], None]:
    """Converts training's reports to the completed fraction of the budget, and a text."""
    seconds, steps = options.budget.seconds, options.budget.steps

    def on_progress(progress: "Reached") -> None:
        cost = progress.held_out_cost
        words = "" if cost is None else f", held-out cost {cost:.3g}"
        done = progress.seconds / seconds if steps is None else progress.environment_steps / steps
        tell(done, f"{progress.environment_steps:,} steps replayed{words}")

    return on_progress


def write_artefact(
    folder: Path,
    history: History,
    parameters: FleetParameters,
    options: TrainingOptions,
    now: datetime,
    tell: ReportProgress,
    *,
    save_model: bool,
    key: SigningKey | None = None,
) -> PolicyManifest:
    """Train, export, verify, and write the artefact to `folder`, atomically.

    It is signed with the key, if there is one.
    """
    from shared.learning.export.agreement import check_agreement
    from shared.learning.export.writer import export
    from shared.learning.from_trace import LEARNT, train_on

    with hidden_folder(folder) as hidden:
        checkpoint = hidden / CHECKPOINT if save_model else None
        on_progress = reporting(options, tell)
        made = train_on(history, parameters, options, checkpoint, on_progress)
        if made.kind != LEARNT:
            shutil.rmtree(hidden / CHECKPOINT, ignore_errors=True)
        export(made.policy, hidden)
        check_agreement(made.policy, hidden, parameters, np.random.default_rng(options.seed))
        draft = _draft(made.trained.scores, parameters, options.seed, now)
        costs = {f"held_out_cost {kind}": cost for kind, cost in made.costs.items()}
        chosen = {
            "kind": made.kind,
            "observation_fields": made.policy.fields,
            "experts": made.policy.experts,
            "scores": draft.scores | costs,
            "trained_on_steps": len(history.demands),
        }
        return seal(draft.model_copy(update=chosen), hidden, folder, key)


def write_pretrained(
    folder: Path,
    history_len: int,
    seed: int,
    now: datetime,
    tell: ReportProgress,
    key: SigningKey | None = None,
) -> PolicyManifest:
    """Train the pretrained policy on synthetic demand, and write its artefact to `folder`."""
    check_trainer()
    quiet_libraries()
    from shared.learning import pretraining
    from shared.learning.export.agreement import check_agreement
    from shared.learning.export.writer import export

    parameters = pretraining.pretraining_parameters(history_len)
    # The exported forms are compared at the size of a typical fleet, since float32 is relative.
    usual = FleetParameters(history_len=history_len, observation="calendar")
    with hidden_folder(folder) as hidden:
        learnt = pretraining.pretrain(history_len, seed, tell)
        export(learnt.module, hidden)
        pretraining.write_nets(learnt.module, hidden)
        check_agreement(learnt.module, hidden, usual, np.random.default_rng(seed))
        draft = _draft(learnt.scores, parameters, seed, now)
        synthetic = {
            "version": f"{PRETRAINED}-{history_len}-{draft.version}",
            "fleet": PRETRAINED,
            "kind": PRETRAINED,
            "trained_on_steps": pretraining.SERIES * pretraining.OF_EACH,
        }
        return seal(draft.model_copy(update=synthetic), hidden, folder, key)


def write_lobby_artefact(
    folder: Path,
    history: History,
    parameters: FleetParameters,
    fleet: LobbyFleet,
    options: TrainingOptions,
    now: datetime,
    tell: ReportProgress,
    key: SigningKey | None = None,
) -> PolicyManifest:
    """Train for the lobby's dynamics, export, verify, and write the artefact to `folder`."""
    check_trainer()
    quiet_libraries()
    from shared.learning.export.lobby import check_lobby_agreement, export_lobby
    from shared.learning.lobby.pretrained import pretrained_weights
    from shared.learning.lobby.training import LEARNT, lobby_policy, train_lobby
    from shared.learning.models.pretrained import NETS

    with hidden_folder(folder) as hidden:
        made = train_lobby(
            history,
            parameters,
            fleet,
            options.budget,
            options.seed,
            pretrained_weights(),
            tell,
        )
        policy = lobby_policy(made, parameters)
        export_lobby(policy, hidden)
        check_lobby_agreement(policy, hidden, parameters, np.random.default_rng(options.seed))
        weights: dict[str, Any] = dict(policy.nets.get_state())
        np.savez(hidden / NETS, **weights)
        scores = {f"held_out_cost {name}": cost for name, cost in made.costs.items()}
        draft = _draft(scores, parameters, options.seed, now)
        trained = {
            "kind": LEARNT,
            "observation_fields": policy.fields,
            "trained_on_steps": len(history.demands),
            "dynamics": "lobby",
            "lobby": LobbyRule(numbers=dict(policy.numbers), horizons=HORIZONS, levels=LEVELS),
        }
        return seal(draft.model_copy(update=trained), hidden, folder, key)


def write_pretrained_nets(folder: Path, history_len: int, seed: int, tell: ReportProgress) -> None:
    """Train the lobby's forecasts on synthetic demand, and put their weights into `folder`."""
    check_trainer()
    quiet_libraries()
    from shared.learning.lobby.pretrained import NETS
    from shared.learning.lobby.pretraining import pretrain_nets

    with hidden_folder(folder) as hidden:
        weights: dict[str, Any] = dict(pretrain_nets(history_len, seed, tell))
        np.savez(hidden / NETS, **weights)
        hidden.rename(folder)


def _draft(
    scores: dict[str, float], parameters: FleetParameters, seed: int, now: datetime
) -> PolicyManifest:
    return PolicyManifest.draft(
        parameters,
        version=new_version(now),
        fleet="default",
        created_at=now,
        scores=scores,
        seed=seed,
    )


@contextmanager
def progress_bar() -> Iterator[ReportProgress]:
    """A progress bar on standard error during training, if that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("starting", total=1.0)

        def tell(done: float, words: str) -> None:
            progress.update(task, completed=min(done, 1.0), description=words)

        yield tell
