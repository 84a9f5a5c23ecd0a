"""What the commands print: text and tables as wide as the terminal, or 80 columns in a pipe."""

import textwrap
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_text(console: Console, text: str, style: str | None = None) -> None:
    """Print a paragraph, wrapped between words: an address or a path stays whole."""
    lines = textwrap.wrap(
        text, console.width, break_long_words=False, break_on_hyphens=False, subsequent_indent="  "
    )
    console.print(
        "\n".join(lines), style=style, markup=False, highlight=False, soft_wrap=True, emoji=False
    )


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    right: Collection[str] = (),
    shrinking: Collection[str] = (),
    bold: Collection[int] = (),
) -> None:
    """Print a table with a line per row.

    `right` are the headings of right-aligned columns. Where the table is too wide, cells of the
    `shrinking` columns are cut, of the widest column first, and all others stay whole. `bold` are
    numbers of rows.
    """
    if title is not None:
        print_text(console, title, "italic")
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *shown, strict=True)]
    excess = sum(widths) + len(widths) - 1 - console.width
    for at in sorted(range(len(widths)), key=widths.__getitem__, reverse=True):
        if excess > 0 and headings[at] in shrinking:
            cut = min(excess, widths[at] - len(headings[at]))
            widths[at] -= cut
            excess -= cut
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(
            heading,
            width=width,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if heading in right else "left",
        )
    for number, row in enumerate(shown):
        table.add_row(*map(Text, row), style="bold" if number in bold else None)
    console.print(table)


def printable(text: str) -> str:
    """Text without control characters: what somebody has put into Redis moves no cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)
