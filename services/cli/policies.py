"""`autopilot policies`: versions, scores, champions, and how training goes."""

import asyncio
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.bus import TRAININGS, Bus, TrainingQueue
from shared.errors import BusAway, PolicyError
from shared.messages import PolicyManifest, TrainingOutcome
from shared.policy_store import PolicyStore
from shared.settings import Fleets, Settings

AWAY = "unknown: Redis is away"


def list_policies(settings: Settings, fleets: Fleets, console: Console) -> None:
    """A table of every version, and a line a fleet on its training."""
    store = PolicyStore.at(settings.policy_store)
    table = Table(title="policies", title_justify="left")
    for heading in ("fleet", "version", "champion", "trained on", "scores"):
        table.add_column(heading, overflow="fold")
    for fleet in sorted({*fleets.names, *store.fleets()}):
        champion = store.champion(fleet)
        for version in store.versions(fleet):
            serving = champion is not None and champion.version == version
            try:
                manifest = store.manifest(fleet, version)
            except PolicyError as error:
                table.add_row(fleet, version, "", "", str(error))
                continue
            table.add_row(
                fleet,
                version,
                "champion" if serving else "",
                f"{manifest.trained_on_steps} steps",
                _scores(manifest),
            )
    console.print(table)
    for fleet, line in _training(settings, fleets).items():
        console.print(f"training of {fleet}: {line}", markup=False, soft_wrap=True)


def show_policy(settings: Settings, fleet: str, version: str, console: Console) -> None:
    """The manifest of one version, as JSON."""
    manifest = PolicyStore.at(settings.policy_store).manifest(fleet, version)
    console.print_json(json.dumps(manifest.model_dump(mode="json")))


def _scores(manifest: PolicyManifest) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in manifest.scores.items())


def _training(settings: Settings, fleets: Fleets) -> dict[str, str]:
    """What is queued or running, and how the last job of each fleet ended."""
    try:
        queue = TrainingQueue(settings.redis_url)
        outcomes = asyncio.run(_outcomes(settings.redis_url))
        return {
            fleet: f"{queue.status(fleet) or 'nothing queued'}; {_outcome(outcomes.get(fleet))}"
            for fleet in fleets.names
        }
    except BusAway:
        return dict.fromkeys(fleets.names, AWAY)


async def _outcomes(redis_url: str) -> dict[str, TrainingOutcome]:
    bus = Bus.connect(redis_url)
    try:
        return await bus.latest(TRAININGS)
    finally:
        await bus.close()


def _outcome(outcome: TrainingOutcome | None) -> str:
    if outcome is None:
        return "no job has ended yet"
    what: Any = outcome.version if outcome.outcome == "published" else outcome.error
    return f"last job {outcome.outcome} {what} at {outcome.at:%Y-%m-%d %H:%M:%S} UTC"
