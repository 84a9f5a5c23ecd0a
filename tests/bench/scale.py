"""How many fleets one environment worker can step: lateness, CPU and memory.

    python tests/bench/scale.py [--fleets 100 1000 10000] [--learning-freq 65] [--steps 2]

A real Redis (append-only file on), the real matchmaking service read over HTTP, demand for every
fleet each step, days of recorded demand behind each, the general policy with the calendar, and one
worker. Lateness is from when a step was due to when Redis committed it; memory and CPU are the
worker's. The load generator and both services share the machine with it.
"""

import argparse
import asyncio
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from services.cli.embedded_redis import redis_command
from services.cli.supervision import service_command
from shared.bus import Bus, keys, wait_for_redis
from shared.messages import Demand, RecordedStep, Transition, utc_now

REDIS_URL, MATCHMAKING_PORT = "redis://:of-the-bench@127.0.0.1:7391/0", 7392
GROUP = "bench"
REPORT_SECONDS = 1.0
START_SECONDS = 20
STOP_SECONDS = 20
DAY_SECONDS = 86_400


def main() -> None:
    """Measure with each number of fleets and print a table for it."""
    arguments = _arguments()
    for fleets in arguments.fleets:
        figures = _measured(fleets, arguments)
        table = Table(
            title=f"{fleets} fleets, a step each {arguments.learning_freq:g} s, "
            f"{arguments.days:g} days behind each"
        )
        for name in figures:
            table.add_column(name, justify="right")
        table.add_row(*(f"{value:.4g}" for value in figures.values()))
        Console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fleets", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--learning-freq", type=float, default=65.0)
    parser.add_argument("--steps", type=int, default=2, help="steps of each fleet to measure")
    parser.add_argument("--days", type=float, default=1.0, help="recorded demand of each fleet")
    return parser.parse_args()


def _measured(fleets: int, arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder), fleets, arguments.learning_freq)
        processes = [psutil.Popen(redis_command(REDIS_URL, Path(folder) / "redis"))]

        def start(module: str) -> psutil.Process:
            command = service_command(module)
            processes.append(psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL))
            return processes[-1]

        try:
            return asyncio.run(_measure(fleets, arguments, environment, start))
        finally:
            for process in reversed(processes):
                process.terminate()
                if psutil.wait_procs([process], STOP_SECONDS)[1]:
                    process.kill()


def _environment(folder: Path, fleets: int, learning_freq: float) -> dict[str, str]:
    (folder / "fleets.toml").write_text("".join(f"[{name}]\n" for name in _names(fleets)))
    return {
        **os.environ,
        "AUTOPILOT_FLEETS": str(folder / "fleets.toml"),
        "AUTOPILOT_REDIS_URL": REDIS_URL,
        "AUTOPILOT_MATCHMAKING_PORT": str(MATCHMAKING_PORT),
        "AUTOPILOT_GS_INVENTORY_URL": f"http://127.0.0.1:{MATCHMAKING_PORT}/demand?fleet={{fleet}}",
        "AUTOPILOT_LEARNING_FREQ": str(learning_freq),
        "AUTOPILOT_POLICY_STORE": str(folder / "policies"),
        "AUTOPILOT_TRAIN_BATCH_SIZE": "1000000",
        "AUTOPILOT_LOG_LEVEL": "warning",
    }


def _names(fleets: int) -> list[str]:
    return [f"fleet-{number}" for number in range(fleets)]


async def _measure(
    fleets: int,
    arguments: argparse.Namespace,
    environment: dict[str, str],
    start: Callable[[str], psutil.Process],
) -> dict[str, float]:
    wait_for_redis(environment["AUTOPILOT_REDIS_URL"], START_SECONDS)
    bus = Bus.connect(environment["AUTOPILOT_REDIS_URL"])
    await _live_through(bus, fleets, arguments)
    await bus.open_group(GROUP)
    start("services.matchmaking")
    stop = asyncio.Event()
    reporting = asyncio.create_task(_report(bus, fleets, arguments.learning_freq, stop))
    began = time.monotonic()
    worker = start("services.environment")
    stepped: set[str] = set()
    while len(stepped) < fleets:
        await asyncio.sleep(1)
        stepped |= {transition.fleet for _, transition in await _drain(bus)}
    resumed = time.monotonic() - began
    cpu, begin = worker.cpu_times(), time.monotonic()
    lateness: list[float] = []
    stale = missed = 0
    seconds = round(arguments.steps * arguments.learning_freq)
    for _ in track(range(seconds), description=f"{fleets} fleets"):
        await asyncio.sleep(1)
        for id, transition in await _drain(bus):
            lateness.append(int(id.split("-")[0]) - transition.at.timestamp() * 1000)
            stale += transition.stale
            missed += transition.gap_steps
    elapsed, after = time.monotonic() - begin, worker.cpu_times()
    memory = worker.memory_info().rss / 1e6
    stop.set()
    await reporting
    await bus.close()
    busy = after.user + after.system - cpu.user - cpu.system
    return {
        "all step after, s": resumed,
        "steps": len(lateness),
        "missed": missed,
        "stale": stale,
        "late p50, ms": float(np.percentile(lateness, 50)),
        "late p99, ms": float(np.percentile(lateness, 99)),
        "late max, ms": max(lateness),
        "CPU, % of a core": 100 * busy / elapsed,
        "memory, MB": memory,
    }


async def _live_through(bus: Bus, fleets: int, arguments: argparse.Namespace) -> None:
    """Leave the recorded demand of some days behind every fleet."""
    period_s = arguments.learning_freq
    began = time.time() - arguments.days * DAY_SECONDS
    rows = [
        TypeAdapter(RecordedStep).dump_json(
            RecordedStep(step, began + step * period_s, 50 + 40 * math.sin(step / 200), True, 0)
        )
        for step in range(int(arguments.days * DAY_SECONDS / period_s))
    ]
    first, *others = [keys.RECORDED.format(fleet=name) for name in _names(fleets)]
    if rows:
        await bus._client.rpush(first, *rows)
        for other in others:
            await bus._client.copy(first, other)


async def _drain(bus: Bus) -> list[tuple[str, Transition]]:
    entries: list[tuple[str, Transition]] = []
    while batch := await bus.read_group(GROUP, "bench", 1000, 1):
        entries += [(id, transition) for id, transition in batch if transition is not None]
    return entries


async def _report(bus: Bus, fleets: int, period_s: float, stop: asyncio.Event) -> None:
    """Report demand for every fleet once a period, spread over it, as matchmaking would."""
    names = _names(fleets)
    parts = max(1, round(period_s / REPORT_SECONDS))
    # All at once first: a fleet without any demand does not step.
    for number in itertools.count():
        chosen = names if not number else names[number % parts :: parts]
        now = utc_now()
        demands = [
            Demand(fleet=name, demand=50 + 40 * math.sin(number / 10), observed_at=now)
            for name in chosen
        ]
        await bus.record_demands(demands, [None] * len(demands))
        if stop.is_set():
            return
        await asyncio.sleep(period_s / parts)


if __name__ == "__main__":
    sys.exit(main())
