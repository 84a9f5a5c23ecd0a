"""`autopilot fleets`: who is in shadow, who is live, what each is told and what that has cost."""

import asyncio
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from services.cli.live_costs import LiveCosts, live_costs
from services.prediction.fleet_states import FleetStates
from shared.bus import DECISIONS, DEMANDS, MODES, Bus, Feed, reason_of
from shared.errors import BusAway
from shared.messages import FleetMode
from shared.settings import Fleets, Settings

_log = structlog.get_logger(__name__)

HEADINGS = ("fleet", "mode", "policy", "demand", "told", "cost a step", "instead")


def set_mode(
    settings: Settings, fleets: Fleets, fleet: str, now: datetime, console: Console, *, shadow: bool
) -> None:
    """Put a fleet in shadow or make it live: kept in Redis, heard by the running services."""
    _ = fleets[fleet]
    mode = FleetMode(fleet=fleet, shadow=shadow, since=now)

    async def say() -> None:
        bus = Bus.connect(settings.redis_url)
        try:
            await bus.publish(MODES, fleet, mode)
        finally:
            await bus.close()

    asyncio.run(say())
    told = (
        "in shadow: callers are told 503, and with shadow=true what they would be told"
        if shadow
        else "live: callers are told what is decided"
    )
    console.print(f"fleet {fleet} is {told}", markup=False, highlight=False, soft_wrap=True)


def list_fleets(
    settings: Settings,
    fleets: Fleets,
    newest: int,
    now: datetime,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """A table of the fleets, or JSON; costs are those of the `newest` steps."""
    shown = asyncio.run(_shown(settings, fleets, newest, now))
    if as_json:
        console.print_json(json.dumps({"fleets": shown}))
        return
    table = Table(title="fleets", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for fleet in shown:
        table.add_row(*_row(fleet))
    console.print(table)


async def _shown(
    settings: Settings, fleets: Fleets, newest: int, now: datetime
) -> list[dict[str, Any]]:
    states = FleetStates(fleets)
    bus = Bus.connect(settings.redis_url)
    try:
        feeds: tuple[Feed[Any], ...] = (MODES, DECISIONS, DEMANDS)
        for feed in feeds:
            for message in (await bus.latest(feed)).values():
                states.update(message)
        costs = {name: await _live_costs(bus, name, newest, fleets) for name in fleets.names}
    finally:
        await bus.close()
    answers, reasons = states.all_encoded(now, shadow=True)
    return [
        _fleet(
            name,
            states.in_shadow(name),
            json.loads(answers[name]) if name in answers else None,
            reasons.get(name),
            costs[name],
        )
        for name in fleets.names
    ]


async def _live_costs(bus: Bus, name: str, newest: int, fleets: Fleets) -> LiveCosts | None:
    """None where there are none to tell: what one fleet has recorded must not hide the others."""
    try:
        return live_costs(await bus.recorded_steps(name, newest), fleets[name])
    except BusAway:
        raise
    except Exception as error:  # noqa: BLE001 - whatever stands in Redis
        _log.error("fleet_costs_unknown", fleet=name, reason=reason_of(error))
        return None


def _fleet(
    name: str,
    shadow: bool,
    answer: dict[str, Any] | None,
    reason: str | None,
    costs: LiveCosts | None,
) -> dict[str, Any]:
    prediction = {} if answer is None else answer["Prediction"]
    return {
        "fleet": name,
        "shadow": shadow,
        "policy_version": None if answer is None else answer["policy_version"],
        "demand": prediction.get("curr_demand"),
        "num_of_gameservers": prediction.get("num_of_gameservers"),
        "guard": None if answer is None else answer["guard"],
        "fallback": None if answer is None else answer["fallback"],
        "reason": reason,
        "live_costs": None if costs is None else asdict(costs),
    }


def _row(fleet: dict[str, Any]) -> tuple[str, ...]:
    mode = "shadow" if fleet["shadow"] else "live"
    own, instead = _costs(fleet["live_costs"])
    if fleet["reason"] is not None:
        return (fleet["fleet"], mode, "", "", fleet["reason"], own, instead)
    why = fleet["guard"] or fleet["fallback"]
    told = str(fleet["num_of_gameservers"]) + (f", {why}" if why else "")
    return (
        fleet["fleet"],
        mode,
        fleet["policy_version"],
        f"{fleet['demand']:g}",
        f"({told})" if fleet["shadow"] else told,
        own,
        instead,
    )


def _costs(costs: dict[str, Any] | None) -> tuple[str, str]:
    if costs is None:
        return "", ""
    what = {"ran": "what ran", "rule": "the rule"}[costs["compared_with"]]
    return f"{costs['decided']:.2f}", f"{costs['instead']:.2f} {what}, {costs['steps']} steps"
