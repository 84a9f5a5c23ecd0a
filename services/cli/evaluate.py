"""`autopilot evaluate`: the notebook's evaluation, a policy's reward by episode."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from services.cli.output import print_table, print_text
from shared.core.arrays import FloatArray
from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.core.replay import BatchPolicy, decide, later
from shared.core.rewards import reward_of
from shared.errors import BadInput, PolicyError, PolicyMissing
from shared.learning.backtest import RecordedDemand
from shared.learning.extras import check_trainer, quiet_libraries
from shared.messages import PolicyManifest
from shared.policies.store import MANIFEST, read_manifest
from shared.policies.store_folder import FolderFiles
from shared.policies.store_seal import (
    CHECKPOINT_MANIFEST,
    SigningKey,
    checked_copy,
    open_checkpoint,
)

if TYPE_CHECKING:
    from shared.learning.models.network import ResidualModule


def trained_for(manifest: PolicyManifest, parameters: FleetParameters) -> FleetParameters:
    """The parameters a policy was trained for; `parameters` give reward and underage cost."""
    return replace(
        parameters,
        min_servers=manifest.min_servers,
        max_servers=manifest.max_servers,
        action_factor=manifest.action_factor,
        history_len=manifest.history_len,
    )


def find_checkpoint(
    folder: Path, parameters: FleetParameters, key: SigningKey | None, *, trust: bool
) -> tuple["ResidualModule", FleetParameters]:
    """The policy in a checkpoint's folder, and the parameters to evaluate it with.

    The limits are the artefact's for an artefact's checkpoint, and the settings' for one of a
    working folder. A checkpoint without a manifest is loaded only with `trust`. Raises `BadInput`.
    """
    check_trainer("--checkpoint")
    quiet_libraries()
    from shared.learning.models.checkpoints import LEARNER_GROUP, load_policy_module, parameters_for

    try:
        if not (folder / LEARNER_GROUP).is_dir():
            raise PolicyMissing(
                f"it has no {LEARNER_GROUP}: name the folder that has one; a policy has it in "
                "checkpoint/ if it was trained with AUTOPILOT_SAVE_MODEL=1"
            )
        with _checked(folder.resolve(), key, trust=trust) as (copy, manifest):
            found = load_policy_module(copy)
    except PolicyError as error:
        raise BadInput(f"--checkpoint {folder}: {error}") from error
    if manifest is not None:
        parameters = trained_for(manifest, parameters)
    return found, parameters_for(found, parameters)


@contextmanager
def _checked(
    folder: Path, key: SigningKey | None, *, trust: bool
) -> Iterator[tuple[Path, PolicyManifest | None]]:
    """A verified copy of a checkpoint's folder, and the manifest of its artefact, if any."""
    if (folder / CHECKPOINT_MANIFEST).exists():
        with open_checkpoint(FolderFiles(folder), "", key) as copy:
            yield copy, None
    elif (folder.parent / MANIFEST).exists():
        manifest = read_manifest(folder.parent, key)
        files, what = FolderFiles(folder.parent), f"policy {manifest.version}"
        with checked_copy(files, "", manifest, MANIFEST, what, folder.name) as copy:
            yield copy, manifest
    elif trust:
        yield folder, None
    else:
        raise PolicyMissing(
            "it has no manifest to verify its files with, neither its own nor its policy's, and a "
            "checkpoint is code: give --trust if you know who wrote it"
        )


def episode_rewards(
    policy: BatchPolicy,
    demand: RecordedDemand,
    parameters: FleetParameters,
    episodes: int,
    seed: int,
) -> FloatArray:
    """Summed reward of each episode of 301 steps, in windows of the demand drawn by `seed`.

    As in the notebook a fleet starts with `min_servers`; the policy observes the demand before its
    window. Shape ``(episodes,)``. Raises `BadInput` when the demand is shorter than an episode.
    """
    history = demand.history
    windows = len(history.demands) - EPISODE_STEPS - parameters.history_len
    if windows < 1:
        raise BadInput(
            f"{demand.name} has {len(history.demands)} rows and an episode takes "
            f"{EPISODE_STEPS + parameters.history_len + 1}: give a longer trace"
        )
    if episodes < 1:
        raise BadInput(f"--episodes is {episodes}: give 1 or more")
    met = parameters.within_limits(history.demands)
    rewards = np.empty(episodes)
    starts = parameters.history_len + np.random.default_rng(seed).integers(windows, size=episodes)
    for number, start in enumerate(starts.tolist()):
        stop = start + EPISODE_STEPS
        targets = decide(policy, history, parameters, np.arange(start - 1, stop - 1))
        allocations = later(targets, parameters.history_len, parameters.min_servers)
        rewards[number] = reward_of(allocations, met[start:stop], parameters).sum()
    return rewards


def print_rewards(policy: str, demand: str, rewards: FloatArray, console: Console) -> None:
    """Print the notebook's metrics: mean, max and min episode reward."""
    print_text(console, f"{policy} on {demand}: {len(rewards)} episodes of {EPISODE_STEPS} steps")
    headings = ("mean reward", "max reward", "min reward")
    values = (rewards.mean(), rewards.max(), rewards.min())
    print_table(console, headings, [[f"{value:.2f}" for value in values]], right=headings)
