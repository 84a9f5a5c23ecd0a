"""`autopilot policies`: versions, scores, champions, and how training goes."""

import asyncio
import json
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.bus import CHAMPIONS, TRAININGS, Bus, TrainingQueue
from shared.errors import BusAway, PolicyError, PolicyMissing
from shared.messages import Champion, PolicyManifest, TrainingOutcome
from shared.policies import load_policy
from shared.policy_store import PolicyStore
from shared.settings import Fleets, Settings, load_fleets

AWAY = "unknown: Redis is away"


def list_policies(settings: Settings, fleets: Fleets, console: Console) -> None:
    """A table of every version, and a line a fleet on its training."""
    store = PolicyStore.at(settings.policy_store)
    table = Table(title="policies", title_justify="left")
    for heading in ("fleet", "version", "kind", "champion", "trained on", "scores"):
        table.add_column(heading, overflow="fold")
    for fleet in sorted({*fleets.names, *store.fleets()}):
        champion = store.champion(fleet)
        for version in store.versions(fleet):
            try:
                manifest = store.manifest(fleet, version)
            except PolicyError as error:
                table.add_row(fleet, version, "", "", "", str(error))
                continue
            table.add_row(
                fleet,
                version,
                manifest.kind,
                _place(champion, version),
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


def _place(champion: Champion | None, version: str) -> str:
    if champion is None:
        return ""
    return {champion.version: "champion", champion.runner_up: "runner-up"}.get(version, "")


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
    what: Any = outcome.version if outcome.error is None else outcome.error
    line = f"last job {outcome.outcome} {what} at {outcome.at:%Y-%m-%d %H:%M:%S} UTC"
    if not outcome.costs:
        return line
    costs = sorted(outcome.costs.items(), key=lambda contender: contender[1])
    told = ", ".join(f"{name} {cost:.3f}" for name, cost in costs)
    return f"{line}; cost per step over {outcome.scored_steps} kept decisions: {told}"


def promote(settings: Settings, fleet: str, version: str, now: datetime, console: Console) -> None:
    """Make a version the champion; a version that can't serve is refused."""
    store = PolicyStore.at(settings.policy_store)
    load_policy(store, fleet, version, load_fleets(settings)[fleet].parameters)
    champion = store.set_champion(fleet, version, now)
    try:
        asyncio.run(_announce(settings.redis_url, champion))
    except BusAway:
        console.print("Redis is away: the services will find it in the policy store", style="red")
    console.print(f"{champion.version} serves fleet {fleet}; {champion.runner_up} is runner-up")


def rollback(settings: Settings, fleet: str, now: datetime, console: Console) -> None:
    """Promote the version that served before."""
    champion = PolicyStore.at(settings.policy_store).champion(fleet)
    if champion is None or champion.runner_up is None:
        raise PolicyMissing(f"fleet {fleet!r} has no version to go back to")
    promote(settings, fleet, champion.runner_up, now, console)


def retire(settings: Settings, fleet: str, version: str, console: Console) -> None:
    """Delete a version that does not serve."""
    PolicyStore.at(settings.policy_store).retire(fleet, version)
    console.print(f"{version} of fleet {fleet} is deleted")


async def _announce(redis_url: str, champion: Champion) -> None:
    bus = Bus.connect(redis_url)
    try:
        await bus.publish(CHAMPIONS, champion.fleet, champion)
    finally:
        await bus.close()
