"""`autopilot fleets`: each fleet's mode, recommended target and its cost; changes of the mode."""

import asyncio
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from rich.console import Console

from services.cli.live_costs import LiveCosts, live_costs
from services.cli.output import print_table, print_text
from services.prediction.fleet_states import FleetStates
from shared.bus import DECISIONS, DEMANDS, MODES, Bus, Feed, reason_of
from shared.errors import BusAway
from shared.messages import FleetMode
from shared.settings import Fleets, Settings

_log = structlog.get_logger(__name__)

HEADINGS = ("fleet", "mode", "policy", "demand", "told", "cost", "instead")


def set_mode(
    settings: Settings, fleets: Fleets, fleet: str, now: datetime, console: Console, *, shadow: bool
) -> None:
    """Put a fleet in shadow mode or make it live: stored in Redis, followed by the services."""
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
        "in shadow: callers get 503, and with shadow=true the recommendation"
        if shadow
        else "live: callers get the recommendation"
    )
    print_text(console, f"fleet {fleet} is {told}")


def list_fleets(
    settings: Settings,
    fleets: Fleets,
    newest: int,
    now: datetime,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Print a table of the fleets, or JSON; costs are those of the `newest` steps."""
    shown = asyncio.run(_shown(settings, fleets, newest, now))
    if as_json:
        console.print_json(json.dumps({"fleets": shown}))
        return
    right = ("demand", "told", "cost")
    print_table(console, HEADINGS, map(_row, shown), right=right, shrinking={"fleet"})
    for note in filter(None, map(_note, shown)):
        print_text(console, note)
    print_text(
        console,
        f"Costs are in servers per step, over the newest {newest} steps at most: of the fleet's "
        "decisions, and instead of what ran or of the rule on the same steps.",
    )


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
    """A fleet's costs, None where they are unknown: a bad record must not hide other fleets."""
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
        return (fleet["fleet"], mode, "", "", "", own, instead)
    told = str(fleet["num_of_gameservers"])
    return (
        fleet["fleet"],
        mode,
        fleet["policy_version"],
        f"{fleet['demand']:.1f}",
        f"({told})" if fleet["shadow"] else told,
        own,
        instead,
    )


def _costs(costs: dict[str, Any] | None) -> tuple[str, str]:
    if costs is None:
        return "", ""
    return f"{costs['decided']:.2f}", f"{costs['instead']:.2f} {costs['compared_with']}"


def _note(fleet: dict[str, Any]) -> str | None:
    """Why a fleet has no recommendation, or one that is not its policy's."""
    why = fleet["reason"] or fleet["guard"] or fleet["fallback"]
    return None if why is None else f"{fleet['fleet']}: {why}"
