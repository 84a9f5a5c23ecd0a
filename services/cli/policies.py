"""`autopilot policies`: versions, scores, champions, and how training goes."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from services.cli.verdicts import concerning, read_verdicts, verdicts_table
from shared.bus import CHAMPIONS, Bus, TrainingQueue
from shared.errors import BusAway, PolicyError, PolicyMissing
from shared.messages import Champion, PolicyManifest, TrainingOutcome
from shared.policies import load_policy
from shared.policy_store import PolicyStore
from shared.settings import Fleets, Settings, load_fleets

AWAY = "unknown, and so are the gate's verdicts: Redis is away, check AUTOPILOT_REDIS_URL"


def list_policies(settings: Settings, fleets: Fleets, newest: int, console: Console) -> None:
    """A table of every version; a fleet's `newest` verdicts, and a line on its training."""
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
    try:
        queue = TrainingQueue(settings.redis_url)
        status = {fleet: queue.status(fleet) or "nothing queued" for fleet in fleets.names}
        verdicts = read_verdicts(settings.redis_url, fleets.names, max(newest, 1))
    except BusAway:
        for fleet in fleets.names:
            console.print(f"training of {fleet}: {AWAY}", markup=False, soft_wrap=True)
        return
    for fleet, ended in verdicts.items():
        if ended and newest:
            console.print(verdicts_table(fleet, ended[-newest:]))
        line = f"training of {fleet}: {status[fleet]}; {_last(ended)}"
        console.print(line, markup=False, soft_wrap=True)


def show_policy(
    settings: Settings, fleet: str, version: str, console: Console, errors: Console
) -> None:
    """The manifest of one version, as JSON, with `verdicts`: those of the gate that concern it.

    They are null, and that is said on `errors`, while Redis is away.
    """
    manifest = PolicyStore.at(settings.policy_store).manifest(fleet, version)
    document = manifest.model_dump(mode="json")
    try:
        verdicts = read_verdicts(settings.redis_url, [fleet])[fleet]
    except BusAway as away:
        document["verdicts"] = None
        errors.print(f"the gate's verdicts are unknown: {away}", markup=False, soft_wrap=True)
    else:
        document["verdicts"] = [
            verdict.model_dump(mode="json") for verdict in concerning(version, verdicts)
        ]
    console.print_json(json.dumps(document))


def _place(champion: Champion | None, version: str) -> str:
    if champion is None:
        return ""
    return {champion.version: "champion", champion.runner_up: "runner-up"}.get(version, "")


def _scores(manifest: PolicyManifest) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in manifest.scores.items())


def _last(ended: Sequence[TrainingOutcome]) -> str:
    if not ended:
        return "no job has ended yet"
    last = ended[-1]
    what = last.version if last.error is None else last.error
    return f"last job {last.outcome} {what} at {last.at:%Y-%m-%d %H:%M:%S} UTC"


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
