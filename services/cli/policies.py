"""`autopilot policies`: versions, scores, champions, and how training goes."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import groupby

from rich.console import Console, JustifyMethod
from rich.table import Table

from services.cli.artefacts import find_version
from services.cli.gate_decisions import GateDecisions, concerning, decisions_table, read_decisions
from shared.bus import CHAMPIONS, Bus, TrainingQueue
from shared.core.parameters import FleetParameters
from shared.errors import BusAway, PolicyError, PolicyMissing
from shared.messages import Champion, PolicyManifest, TrainingOutcome
from shared.policies.runtime import FleetPolicy, initial_policy, load_policy, plans_short
from shared.policies.store import PolicyStore
from shared.settings import Fleets, Settings, load_fleets

CANDIDATE = "candidate"
RULES_COSTS = ("gate_cost rule:", "held_out_cost rule:")
"""What scores are called that are a rule's."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A version of a fleet, or what serves it from elsewhere."""

    fleet: str
    version: str
    place: str
    """`champion`, `runner-up`, or how it serves without being either."""
    kind: str = ""
    trained_on_steps: int | None = None
    history_len: int | None = None
    """The fleet's HISTORY_LEN that it was made for."""
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    """Why its manifest can't be read."""


def list_policies(
    settings: Settings,
    fleets: Fleets,
    newest: int,
    console: Console,
    *,
    as_json: bool,
    wide: bool = False,
) -> None:
    """Every version, a fleet's `newest` gate decisions, how its training goes; tables or JSON.

    `wide` tables have all, whatever the terminal's width. Gate decisions and training are null in
    the JSON while Redis is away.
    """
    listed = list(_listed(PolicyStore.of(settings), fleets))
    verdicts: GateDecisions | None = None
    training: dict[str, str] | None = None
    unknown = ""
    try:
        queue = TrainingQueue(settings.redis_url)
        status = {fleet: queue.status(fleet) or "nothing queued" for fleet in fleets.names}
        ended = read_decisions(settings.redis_url, fleets.names, max(newest, 1))
    except BusAway as away:
        unknown = f"unknown, and so are the gate's verdicts: {away}"
    else:
        training = {fleet: f"{status[fleet]}; {_last(ended[fleet])}" for fleet in fleets.names}
        verdicts = {fleet: ended[fleet][-newest:] if newest else [] for fleet in fleets.names}
    if as_json:
        console.print_json(_document(listed, verdicts, training))
        return
    for table in [_wide_table(listed)] if wide else _versions_tables(listed):
        console.print(table)
    for fleet in fleets.names:
        if verdicts and verdicts[fleet]:
            console.print(decisions_table(fleet, verdicts[fleet], wide=wide))
        line = f"training of {fleet}: {unknown if training is None else training[fleet]}"
        console.print(line, markup=False)


def show_policy(
    settings: Settings, fleet: str, version: str, console: Console, errors: Console
) -> None:
    """The manifest of one version, as JSON, with `verdicts`: those of the gate that concern it.

    They are null, and that is said on `errors`, while Redis is away.
    """
    _, manifest = find_version(version, fleet, settings)
    document = manifest.model_dump(mode="json")
    try:
        verdicts = read_decisions(settings.redis_url, [fleet])[fleet]
    except BusAway as away:
        document["verdicts"] = None
        errors.print(f"the gate's verdicts are unknown: {away}", markup=False, soft_wrap=True)
    else:
        document["verdicts"] = [
            decision.model_dump(mode="json") for decision in concerning(version, verdicts)
        ]
    console.print_json(json.dumps(document))


def _document(
    listed: Sequence[Listed], verdicts: GateDecisions | None, training: Mapping[str, str] | None
) -> str:
    told = None
    if verdicts is not None:
        told = {
            fleet: [decision.model_dump(mode="json") for decision in ended]
            for fleet, ended in verdicts.items()
        }
    versions = [asdict(one) for one in listed]
    return json.dumps({"versions": versions, "verdicts": told, "training": training})


def _versions_tables(listed: Sequence[Listed]) -> Iterator[Table]:
    """A table a fleet, within 80 columns; a cost, and the best rule's, are on demand not seen."""
    for fleet, versions in groupby(listed, key=lambda one: one.fleet):
        table = Table(
            title=f"policies of {fleet}", title_justify="left", box=None, padding=(0, 1, 0, 0)
        )
        for heading in ("version", "kind", "", "steps", "cost", "best rule"):
            right = heading in ("steps", "cost", "best rule")
            justify: JustifyMethod = "right" if right else "left"
            table.add_column(heading, no_wrap=True, overflow="ellipsis", justify=justify)
        for one in versions:
            steps = "" if one.trained_on_steps is None else f"{one.trained_on_steps:,}"
            own, rule = _held_out(one)
            table.add_row(one.version, one.kind, one.place, steps, own, rule)
            if one.error is not None:
                table.add_row(f"  {one.error}")
        yield table


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
    """What a version, and the best rule beside it, cost on demand that it had not seen."""
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
    """What serves a fleet that has no champion."""
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
    """Make a version the champion; a version that can't serve is refused."""
    store = PolicyStore.of(settings)
    parameters = load_fleets(settings)[fleet].parameters
    policy = load_policy(store, fleet, version, parameters)
    champion = store.set_champion(fleet, version, now)
    try:
        asyncio.run(_announce(settings.redis_url, champion))
    except BusAway as away:
        told = f"the services will find it in the policy store, since {away}"
        console.print(told, style="red", markup=False, soft_wrap=True)
    console.print(f"{champion.version} serves fleet {fleet}; {champion.runner_up} is runner-up")
    if means := plans_short(policy, parameters):
        console.print(f"{champion.version}: {means}", markup=False, soft_wrap=True)


def rollback(settings: Settings, fleet: str, now: datetime, console: Console) -> None:
    """Promote the version that served before."""
    champion = PolicyStore.of(settings).champion(fleet)
    if champion is None or champion.runner_up is None:
        raise PolicyMissing(f"fleet {fleet!r} has no version to go back to")
    promote(settings, fleet, champion.runner_up, now, console)


def sign(settings: Settings, fleet: str, version: str, console: Console) -> None:
    """Sign a version that was published before there was a key, once its files are checked."""
    newly = PolicyStore.of(settings).sign(fleet, version)
    told = "is signed now" if newly else "was signed with this key already"
    console.print(f"{version} of fleet {fleet} {told}", markup=False, soft_wrap=True)


def retire(settings: Settings, fleet: str, version: str, console: Console) -> None:
    """Delete a version that does not serve."""
    PolicyStore.of(settings).retire(fleet, version)
    console.print(f"{version} of fleet {fleet} is deleted")


async def _announce(redis_url: str, champion: Champion) -> None:
    bus = Bus.connect(redis_url)
    try:
        await bus.publish(CHAMPIONS, champion.fleet, champion)
    finally:
        await bus.close()
