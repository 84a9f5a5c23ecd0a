"""`autopilot dead-letters`: what consumers of Redis's streams could not use and have set aside."""

import asyncio
import json

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.bus import Bus, DeadLetter
from shared.settings import Settings

HEADINGS = ("set aside (UTC)", "by", "entry", "why")


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
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for letter in letters:
        entry = f"{letter.id} of {letter.stream}"
        at = f"{letter.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(*map(_plain, (at, letter.group, entry, letter.reason)))
    console.print(table)


def _plain(text: str) -> Text:
    """What an entry holds is no markup, and moves no cursor."""
    return Text("".join(each if each.isprintable() else "?" for each in text))


async def _read(redis_url: str, newest: int) -> list[DeadLetter]:
    bus = Bus.connect(redis_url)
    try:
        return await bus.dead_letters(newest)
    finally:
        await bus.close()
