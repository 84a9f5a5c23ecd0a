"""`autopilot dead-letters`: entries of Redis's streams that no consumer could process."""

import asyncio
import json

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.output import printable
from shared.bus import Bus, DeadLetter
from shared.settings import Settings


def list_dead_letters(settings: Settings, newest: int, console: Console, *, as_json: bool) -> None:
    """A table of the newest dead letters, oldest first, or JSON with their content."""
    letters = asyncio.run(_read(settings.redis_url, newest))
    if as_json:
        shown = [letter._asdict() | {"at": letter.at.isoformat()} for letter in letters]
        console.print_json(json.dumps({"dead_letters": shown}))
        return
    if not letters:
        console.print("there are no dead letters")
        return
    table = Table(title="dead letters", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("set aside (UTC)", no_wrap=True)
    table.add_column("consumer group, stream, entry", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for letter in letters:
        whose = "\n".join(map(printable, (letter.group, letter.stream, letter.id)))
        at = f"{letter.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(at, Text(whose), Text(printable(letter.reason)))
    console.print(table)


async def _read(redis_url: str, newest: int) -> list[DeadLetter]:
    bus = Bus.connect(redis_url)
    try:
        return await bus.dead_letters(newest)
    finally:
        await bus.close()
