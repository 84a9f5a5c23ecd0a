"""`autopilot policies`: versions, scores, champions, gate decisions, and the state of training."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import groupby

from rich.console import Console
from rich.table import Table

from services.cli.artefacts import find_version
from services.cli.gate_decisions import GateDecisions, concerning, print_decisions, read_decisions
from services.cli.output import print_table, print_text
from shared.bus import CHAMPIONS, Bus, TrainingQueue
from shared.core.parameters import FleetParameters
from shared.errors import BusAway, PolicyError, PolicyMissing
from shared.messages import Champion, PolicyManifest, TrainingOutcome
from shared.policies.runtime import FleetPolicy, initial_policy, load_policy, plans_short
from shared.policies.store import PolicyStore
from shared.settings import Fleets, Settings, load_fleets

CANDIDATE = "candidate"
RULES_COSTS = ("gate_cost rule:", "held_out_cost rule:")
"""How the names of a rule's scores begin."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A version of a fleet, or the policy that serves it without one."""

    fleet: str
    version: str
    place: str
    """`champion`, `runner-up`, empty, or how a fleet without a champion is served."""
    kind: str = ""
    trained_on_steps: int | None = None
    history_len: int | None = None
    """The HISTORY_LEN that it was trained for."""
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    """The reason why its manifest can't be read."""


def list_policies(
    settings: Settings,
    fleets: Fleets,
    newest: int,
    console: Console,
    *,
    as_json: bool,
    wide: bool = False,
) -> None:
    """Print every version, each fleet's `newest` gate decisions and its state of training.

    Tables fit the terminal, unless `wide`; or JSON, in which gate decisions (as `verdicts`) and
    training are null while Redis is away.
    """
    listed = list(_listed(PolicyStore.of(settings), fleets))
    decisions: GateDecisions | None = None
    training: dict[str, str] | None = None
    unknown = ""
    try:
        queue = TrainingQueue(settings.redis_url)
        status = {fleet: queue.status(fleet) or "nothing queued" for fleet in fleets.names}
        ended = read_decisions(settings.redis_url, fleets.names, max(newest, 1))
    except BusAway as away:
        unknown = f"unknown, as are the gate's decisions: {away}"
    else:
        training = {fleet: f"{status[fleet]}; {_last(ended[fleet])}" for fleet in fleets.names}
        decisions = {fleet: ended[fleet][-newest:] if newest else [] for fleet in fleets.names}
    if as_json:
        console.print_json(_document(listed, decisions, training))
        return
    if wide:
        console.print(_wide_table(listed))
    else:
        _print_versions(console, listed)
    for fleet in fleets.names:
        if decisions and decisions[fleet]:
            print_decisions(console, fleet, decisions[fleet], wide=wide)
        state = unknown if training is None else training[fleet]
        print_text(console, f"training of {fleet}: {state}")


def show_policy(
    settings: Settings, fleet: str, version: str, console: Console, errors: Console
) -> None:
    """Print a version's manifest as JSON, with `verdicts`: the gate's decisions that concern it.

    While Redis is away these are null, and `errors` gets a line that says so.
    """
    _, manifest = find_version(version, fleet, settings)
    document = manifest.model_dump(mode="json")
    try:
        decisions = read_decisions(settings.redis_url, [fleet])[fleet]
    except BusAway as away:
        document["verdicts"] = None
        told = f"the gate's decisions are unknown: {away}"
        errors.print(told, markup=False, highlight=False, soft_wrap=True)
    else:
        document["verdicts"] = [
            decision.model_dump(mode="json") for decision in concerning(version, decisions)
        ]
    console.print_json(json.dumps(document))


def _document(
    listed: Sequence[Listed], decisions: GateDecisions | None, training: Mapping[str, str] | None
) -> str:
    verdicts = None
    if decisions is not None:
        verdicts = {
            fleet: [decision.model_dump(mode="json") for decision in ended]
            for fleet, ended in decisions.items()
        }
    versions = [asdict(one) for one in listed]
    return json.dumps({"versions": versions, "verdicts": verdicts, "training": training})


def _print_versions(console: Console, listed: Sequence[Listed]) -> None:
    """A table for each fleet; costs, the version's and the best rule's, are on held-out demand."""
    right = ("trained on", "cost", "best rule")
    for fleet, of_fleet in groupby(listed, key=lambda one: one.fleet):
        versions = list(of_fleet)
        print_table(
            console,
            ("version", "kind", "", *right),
            [
                (
                    one.version,
                    one.kind,
                    one.place,
                    "" if one.trained_on_steps is None else f"{one.trained_on_steps:,} steps",
                    *_held_out(one),
                )
                for one in versions
            ],
            title=f"policies of {fleet}: cost per step on held-out demand",
            right=right,
            shrinking={"version"},
        )
        for one in versions:
            if one.error is not None:
                print_text(console, f"{one.version}: {one.error}")


def _wide_table(listed: Sequence[Listed]) -> Table:
    table = Table(title="policies", title_justify="left")
    for heading in ("fleet", "version", "kind", "champion", "HISTORY_LEN", "trained on", "scores"):
        table.add_column(heading, overflow="fold")
    for one in listed:
        steps = "" if one.trained_on_steps is None else f"{one.trained_on_steps} steps"
        made_for = "" if one.history_len is None else str(one.history_len)
        scores = one.error or _scores(one.scores)
        table.add_row(one.fleet, one.version, one.kind, one.place, made_for, steps, scores)
    return table


def _held_out(one: Listed) -> tuple[str, str]:
    """The costs of a version and of the best rule on demand that the version was not trained on."""
    own = CANDIDATE if one.kind == "learnt" else one.kind
    rules = [cost for name, cost in one.scores.items() if name.startswith(RULES_COSTS)]
    costs = (
        one.scores.get(f"gate_cost {own}", one.scores.get("held_out_cost")),
        min(rules, default=one.scores.get("held_out_rule_cost")),
    )
    return tuple("" if cost is None else f"{cost:.2f}" for cost in costs)  # type: ignore[return-value]


def _listed(store: PolicyStore, fleets: Fleets) -> Iterator[Listed]:
    for fleet in sorted({*fleets.names, *store.fleets()}):
        champion = store.champion(fleet)
        if champion is None and fleet in fleets.names:
            yield _first(fleet, fleets[fleet].parameters)
        for version in store.versions(fleet):
            place = _place(champion, version)
            try:
                yield _of(store.manifest(fleet, version), fleet, place)
            except PolicyError as error:
                yield Listed(fleet, version, place, error=str(error))


def _first(fleet: str, parameters: FleetParameters) -> Listed:
    """The policy that serves a fleet without a champion."""
    policy = initial_policy(parameters)
    if isinstance(policy, FleetPolicy):
        return _of(policy.manifest, fleet, "serves (shared)")
    return Listed(fleet, policy.version, "serves (rule)", kind=policy.version)


def _of(manifest: PolicyManifest, fleet: str, place: str) -> Listed:
    return Listed(
        fleet,
        manifest.version,
        place,
        manifest.kind,
        manifest.trained_on_steps,
        manifest.history_len,
        manifest.scores,
    )


def _place(champion: Champion | None, version: str) -> str:
    if champion is None:
        return ""
    return {champion.version: "champion", champion.runner_up: "runner-up"}.get(version, "")


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def _last(ended: Sequence[TrainingOutcome]) -> str:
    if not ended:
        return "no job has ended yet"
    last = ended[-1]
    what = last.version if last.error is None else last.error
    return f"last job {last.outcome} {what} at {last.at:%Y-%m-%d %H:%M:%S} UTC"


def promote(settings: Settings, fleet: str, version: str, now: datetime, console: Console) -> None:
    """Make a version the champion. Raises `PolicyError` for a version that can't serve."""
    store = PolicyStore.of(settings)
    parameters = load_fleets(settings)[fleet].parameters
    policy = load_policy(store, fleet, version, parameters)
    champion = store.set_champion(fleet, version, now)
    try:
        asyncio.run(_announce(settings.redis_url, champion))
    except BusAway as away:
        print_text(console, f"the services will find it in the policy store, since {away}", "red")
    print_text(
        console, f"{champion.version} serves fleet {fleet}; {champion.runner_up} is runner-up"
    )
    if means := plans_short(policy, parameters):
        print_text(console, f"{champion.version}: {means}")


def rollback(settings: Settings, fleet: str, now: datetime, console: Console) -> None:
    """Promote the runner-up, the version that served before."""
    champion = PolicyStore.of(settings).champion(fleet)
    if champion is None or champion.runner_up is None:
        raise PolicyMissing(f"fleet {fleet!r} has no version to go back to")
    promote(settings, fleet, champion.runner_up, now, console)


def sign(settings: Settings, fleet: str, version: str, console: Console) -> None:
    """Sign a version that was published without the key, after its files are verified."""
    newly = PolicyStore.of(settings).sign(fleet, version)
    told = "is signed now" if newly else "was signed with this key already"
    print_text(console, f"{version} of fleet {fleet} {told}")


def retire(settings: Settings, fleet: str, version: str, console: Console) -> None:
    """Delete a version that does not serve."""
    PolicyStore.of(settings).retire(fleet, version)
    print_text(console, f"{version} of fleet {fleet} is deleted")


async def _announce(redis_url: str, champion: Champion) -> None:
    bus = Bus.connect(redis_url)
    try:
        await bus.publish(CHAMPIONS, champion.fleet, champion)
    finally:
        await bus.close()
