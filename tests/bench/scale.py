"""How many fleets one environment worker can step: lateness, CPU and memory.

    python tests/bench/scale.py [--fleets 1000] [--learning-freq 5] [--steps 6]

A real Redis (append-only file on), the real matchmaking service read over HTTP, demand for every
fleet each step, and one worker. Lateness is from when a step was due to when Redis
committed it. The load generator and both services share the machine with the worker.
"""

import argparse
import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from services.cli.supervision import redis_command, service_command
from shared.bus import Bus, wait_for_redis
from shared.messages import Demand, Transition, utc_now

REDIS_PORT, MATCHMAKING_PORT = 7391, 7392
GROUP = "bench"
REPORTS_PER_PERIOD = 10
START_SECONDS = 20
STOP_SECONDS = 20
WARM_UP_PERIODS = 3


def main() -> None:
    """Run the measurement and print one row."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder), arguments.fleets, arguments.learning_freq)
        commands = [
            redis_command(REDIS_PORT, Path(folder)),
            service_command("services.matchmaking"),
            service_command("services.environment"),
        ]
        processes = [
            psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            for command in commands
        ]
        try:
            figures = asyncio.run(_measure(arguments, environment, processes[-1]))
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(STOP_SECONDS)
    _print(arguments, figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fleets", type=int, default=1000)
    parser.add_argument("--learning-freq", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=6, help="steps of each fleet to measure")
    return parser.parse_args()


def _environment(folder: Path, fleets: int, learning_freq: float) -> dict[str, str]:
    names = [f"fleet-{number}" for number in range(fleets)]
    (folder / "fleets.toml").write_text("".join(f"[{name}]\n" for name in names))
    return {
        **os.environ,
        "AUTOPILOT_FLEETS": str(folder / "fleets.toml"),
        "AUTOPILOT_REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0",
        "AUTOPILOT_MATCHMAKING_PORT": str(MATCHMAKING_PORT),
        "AUTOPILOT_GS_INVENTORY_URL": f"http://127.0.0.1:{MATCHMAKING_PORT}/demand?fleet={{fleet}}",
        "AUTOPILOT_LEARNING_FREQ": str(learning_freq),
        "AUTOPILOT_POLICY_STORE": str(folder / "policies"),
        "AUTOPILOT_TRAIN_BATCH_SIZE": "1000000",
        "AUTOPILOT_LOG_LEVEL": "warning",
    }


async def _measure(
    arguments: argparse.Namespace, environment: dict[str, str], worker: psutil.Process
) -> dict[str, float]:
    wait_for_redis(environment["AUTOPILOT_REDIS_URL"], START_SECONDS)
    bus = Bus.connect(environment["AUTOPILOT_REDIS_URL"])
    stop = asyncio.Event()
    reporting = asyncio.create_task(_report(bus, arguments.fleets, arguments.learning_freq, stop))
    await asyncio.sleep(WARM_UP_PERIODS * arguments.learning_freq)
    await bus.open_group(GROUP)
    await _drain(bus)
    cpu, start = worker.cpu_times(), time.monotonic()
    lateness: list[float] = []
    stale = 0
    seconds = round(arguments.steps * arguments.learning_freq)
    for _ in track(range(seconds), description="stepping"):
        await asyncio.sleep(1)
        for id, transition in await _drain(bus):
            lateness.append(int(id.split("-")[0]) - transition.at.timestamp() * 1000)
            stale += transition.stale
    elapsed, after = time.monotonic() - start, worker.cpu_times()
    memory = worker.memory_info().rss / 1e6
    stop.set()
    await reporting
    await bus.close()
    busy = after.user + after.system - cpu.user - cpu.system
    expected = arguments.fleets * elapsed / arguments.learning_freq
    return {
        "steps": len(lateness),
        "of those due, %": 100 * len(lateness) / expected,
        "stale": stale,
        "late p50, ms": float(np.percentile(lateness, 50)),
        "late p99, ms": float(np.percentile(lateness, 99)),
        "late max, ms": max(lateness),
        "CPU, % of a core": 100 * busy / elapsed,
        "memory, MB": memory,
    }


async def _drain(bus: Bus) -> list[tuple[str, Transition]]:
    entries: list[tuple[str, Transition]] = []
    while batch := await bus.read_group(GROUP, "bench", 1000, 1):
        entries += [(id, transition) for id, transition in batch if transition is not None]
    return entries


async def _report(bus: Bus, fleets: int, period_s: float, stop: asyncio.Event) -> None:
    """Report demand for every fleet once a period, spread over it, as matchmaking would."""
    number = 0
    while not stop.is_set():
        number += 1
        for first in range(REPORTS_PER_PERIOD):
            now = utc_now()
            demands = [
                Demand(
                    fleet=f"fleet-{fleet}",
                    demand=50 + 40 * math.sin(number / 10 + fleet),
                    observed_at=now,
                )
                for fleet in range(first, fleets, REPORTS_PER_PERIOD)
            ]
            await bus.record_demands(demands, [None] * len(demands))
            await asyncio.sleep(period_s / REPORTS_PER_PERIOD)


def _print(arguments: argparse.Namespace, figures: dict[str, float]) -> None:
    table = Table(title=f"{arguments.fleets} fleets, a step each {arguments.learning_freq:g} s")
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.4g}" for value in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
