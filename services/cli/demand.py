"""RecordedDemand demand in servers, from a trace or a curve, and what limits it suggests."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from services.cli.traces import MAX_DEMAND, read_trace
from shared.core.arrays import FloatArray
from shared.core.curves import PEAK_FRACTION, sine1h
from shared.core.history import History
from shared.errors import BadInput
from shared.learning.backtest import RecordedDemand
from shared.messages import MAX_SERVERS_EVER
from shared.settings import FleetSettings, Settings, load_fleets

PEAK_PERCENTILE = 99.9
"""Percentile of demand that `--peak-servers` scales to, so that a single spike does not matter."""
CURVE_STEPS = 3_000
"""Steps of a curve: fifty periods of `sine1h`."""
CURVE_START = datetime(2024, 1, 1, tzinfo=UTC)
LEAST_PER_SERVER, MOST_PER_SERVER = 1e-6, MAX_DEMAND
"""Bounds of the demand that one server takes, in the trace's unit."""
LEAST_PEAK = 1e-3
"""Servers."""
DEFAULT_STEP_SECONDS = 60.0
"""The notebook's minute, for a trace of a single row."""


@dataclass(frozen=True, slots=True)
class Source:
    """The options that select demand; exactly one of `trace` and `curve` is given."""

    trace: Path | None
    curve: str | None
    players_per_server: float | None = None
    peak_servers: float | None = None

    def read(self, fleet: FleetSettings, training_part: float = 1.0) -> RecordedDemand:
        """Read the demand; its peak is that of the first `training_part`. Raises `BadInput`."""
        if (self.trace is None) == (self.curve is None):
            raise BadInput("name either --trace CSV or --demand sine1h")
        if self.trace is None:
            return self._curve(fleet)
        trace = read_trace(self.trace)
        times = np.array([moment.timestamp() for moment in trace.timestamps])
        step_seconds = float(np.median(np.diff(times))) if len(times) > 1 else DEFAULT_STEP_SECONDS
        training = trace.demand[: max(int(training_part * len(trace.demand)), 1)]
        demands = trace.demand / self._players_per_server(training)
        if demands.max() > MAX_SERVERS_EVER:
            raise BadInput(
                f"{self.trace}: demand goes up to {demands.max():g} servers, at most "
                f"{MAX_SERVERS_EVER} are taken: raise --players-per-server"
            )
        return RecordedDemand(
            trace.name, trace.timestamps, History(times, demands, step_seconds), False
        )

    def _curve(self, fleet: FleetSettings) -> RecordedDemand:
        if self.curve != "sine1h":
            raise BadInput(f"--demand {self.curve}: the curve that there is, is sine1h")
        if (self.players_per_server, self.peak_servers) != (None, None):
            raise BadInput("--players-per-server and --peak-servers go with --trace")
        peak = PEAK_FRACTION * fleet.max_servers
        curve = [sine1h(step, peak) for step in range(1, CURVE_STEPS + 1)]
        demands = np.maximum(curve, fleet.min_servers)  # as in the notebook's environment
        stamps = tuple(CURVE_START + timedelta(minutes=step) for step in range(CURVE_STEPS))
        times = np.array([moment.timestamp() for moment in stamps])
        return RecordedDemand(
            self.curve, stamps, History(times, demands, DEFAULT_STEP_SECONDS), True
        )

    def _players_per_server(self, training: FloatArray) -> float:
        if self.peak_servers is None:
            return players_per_server(
                1.0 if self.players_per_server is None else self.players_per_server
            )
        if self.players_per_server is not None:
            raise BadInput("give --players-per-server or --peak-servers, not both")
        peak = float(np.percentile(training, PEAK_PERCENTILE))
        if not peak > 0:
            raise BadInput(
                "the training part has no demand, so --peak-servers can't scale it: "
                "use --players-per-server, or a trace with demand in it"
            )
        return peak / _within(self.peak_servers, "--peak-servers", LEAST_PEAK, MAX_SERVERS_EVER)


def fleet_settings(settings: Settings) -> FleetSettings:
    """The fleet settings of the environment variables; a fleet file is ignored."""
    return load_fleets(settings.model_copy(update={"fleets": None}))["default"]


def players_per_server(number: float) -> float:
    """The option's value, checked; raises `BadInput`."""
    return _within(number, "--players-per-server", LEAST_PER_SERVER, MOST_PER_SERVER)


def _within(number: float, option: str, least: float, most: float) -> float:
    if not least <= number <= most:  # NaN is within nothing
        raise BadInput(f"{option} is {number:g}: give a number from {least:g} to {most:g}")
    return number
