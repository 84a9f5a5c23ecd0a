"""The files that a backtest writes: JSON document, CSV of decisions, plot."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.cli.files import check_can_write, write_whole
from services.cli.plots import check_can_plot, write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Output:
    """Paths of the files that a backtest should write; None: not requested."""

    json: Path | None
    decisions: Path | None
    plot: Path | None

    def check(self) -> None:
        """Raise `BadInput` for a file that cannot be written; call this before the long work."""
        names = ((self.json, "--json"), (self.decisions, "--decisions"), (self.plot, "--plot"))
        for path, option in names:
            check_can_write(path, option)
        if self.plot is not None:
            check_can_plot(self.plot)

    def write(
        self,
        document: Mapping[str, Any],
        write_decisions: Callable[[Path], None],
        draw: "Callable[[], Figure]",
    ) -> None:
        """Write the requested files, each atomically."""
        if self.json is not None:
            text = json.dumps(document, indent=2) + "\n"
            write_whole(self.json, lambda partial: partial.write_text(text))
        if self.decisions is not None:
            write_decisions(self.decisions)
        if self.plot is not None:
            write_plot(draw(), self.plot)
