"""What serving costs, beside a FastAPI no-op measured in the same run.

    python tests/bench/serving.py

Services run as processes, rounds alternate, ratios are of medians. Client and servers share the
cores: read the ratios, not the rates. A figure that misses its requirement says so; nothing fails.
"""

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from services.cli.embedded_redis import redis_command
from shared.bus import DECISIONS, Bus, wait_for_redis
from shared.core.parameters import FleetParameters
from shared.messages import PolicyManifest, utc_now
from shared.policies.runtime import first_action, load_policy
from shared.policies.store import LITERT_MODEL, PolicyStore
from tests.bench.load import Target, latencies_at, near_rate, saturate
from tests.conftest import MEAN_MODEL, a_decision, free_port

ROUNDS = 5
ROUND_SECONDS = 2
STEADY_WINDOWS = 5
STEADY_SECONDS = 2.0
REST_SECONDS = 2.0
START_SECONDS = 20.0
LITERT_CALLS = 20_000
VERSION = "bench"
OBSERVATION = "[" + ",".join(["50.5"] * 10) + "]"
REVIEW = json.dumps(
    {
        "request": {
            "uid": "01f0c6f2-c7a5-11f0-8b1d-0242ac120002",
            "name": "default",
            "namespace": "games",
            "annotations": {"agones.dev/sdk-version": "1.55.0"},
            "status": {
                "replicas": 60,
                "readyReplicas": 20,
                "reservedReplicas": 0,
                "allocatedReplicas": 40,
                "counters": {"rooms": {"count": 40, "capacity": 600}},
            },
        },
        "response": None,
    }
)
"""As Agones sends it."""
ROOT = Path(__file__).resolve().parents[2]


def row(what: str, measured: str, required: str = "", kept: bool = True) -> None:
    print(f"{what:<44} {measured:<34} {required:<12} {'' if kept else 'missed'}", flush=True)


@contextmanager
def process(*command: str, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {f"AUTOPILOT_{name.upper()}": str(v) for name, v in settings.items()}
    env["PYTHONPATH"] = str(ROOT)
    running = subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


def wait_for(port: int) -> float:
    """Seconds until something listens."""
    start = time.monotonic()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return time.monotonic() - start
        except OSError:
            if time.monotonic() > start + START_SECONDS:
                raise
            time.sleep(0.01)


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def publish_policy(store: PolicyStore) -> None:
    draft = PolicyManifest.draft(
        FleetParameters(), version=VERSION, fleet="default", created_at=utc_now()
    )
    with store.writing("default", VERSION) as folder:
        shutil.copy(MEAN_MODEL, folder / LITERT_MODEL)
        store.publish(draft, folder)
    store.set_champion("default", VERSION, utc_now())


async def publish_decision(redis_url: str) -> None:
    bus = Bus.connect(redis_url)
    decision = a_decision(policy_version=VERSION, decided_at=utc_now())
    await bus.publish(DECISIONS, "default", decision)
    await bus.close()


def measure_litert(store: PolicyStore) -> None:
    policy = load_policy(store, "default", VERSION, FleetParameters())
    observation = [50.5] * 10
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(LITERT_CALLS):
            first_action(policy, observation)
        rounds.append((time.perf_counter() - start) / LITERT_CALLS * 1e6)
    call_us = statistics.median(rounds)
    row("LiteRT call in process", f"{call_us:.1f} us", "< 1000 us", call_us < 1000)


def measure_rest(services: dict[str, subprocess.Popen[bytes]]) -> None:
    time.sleep(REST_SECONDS)
    for name, service in services.items():
        if service.poll() is not None:
            row(f"{name} at rest", "it has ended", "< 100 MB", kept=False)
            continue
        resident = resident_mb(service.pid)
        row(f"{name} at rest", f"{resident:.0f} MB resident", "< 100 MB", resident < 100)


def measure_rates(noop: Target, targets: dict[str, tuple[Target, float]]) -> dict[str, float]:
    """Prints the ratios; the saturation rates."""
    rates: dict[str, list[float]] = {"FastAPI no-op": [], **{name: [] for name in targets}}
    for _ in range(ROUNDS):
        rates["FastAPI no-op"].append(saturate(noop, ROUND_SECONDS))
        for name, (target, _) in targets.items():
            rates[name].append(saturate(target, ROUND_SECONDS))
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    base = medians["FastAPI no-op"]
    row("FastAPI no-op", f"{base:,.0f} a second, ratio 1")
    for name, (_, required) in targets.items():
        ratio = medians[name] / base
        measured = f"{medians[name]:,.0f} a second, ratio {ratio:.2f}"
        row(name, measured, f">= {required:.2f}", ratio >= required)
    return medians


def measure_latency(noop: Target, name: str, measured: Target, rate: float, limit_ms: int) -> None:
    """Prints its 99th percentile, and of the yardstick what this machine adds now."""
    limit = f"p99 < {limit_ms} ms"
    found = near_rate(measured, rate, STEADY_SECONDS)
    if found is not None:
        connections, reached, p99 = found
        row(
            f"{name} at {reached:,.0f} a second",
            f"p99 {p99:.2f} ms, wrk, {connections} connections",
            limit,
            p99 < limit_ms,
        )
    windows: dict[str, list[float]] = {"FastAPI no-op": [], name: []}
    for _ in range(STEADY_WINDOWS):
        # The no-op can't keep up with half of our rate everywhere, so it gets half of that.
        for what, target, at in (("FastAPI no-op", noop, rate / 2), (name, measured, rate)):
            latencies = latencies_at(target, at, STEADY_SECONDS)
            windows[what].append(latencies[int(len(latencies) * 0.99)])
    for what, at, required in (("FastAPI no-op", rate / 2, ""), (name, rate, limit)):
        p99 = statistics.median(windows[what])
        spread = f"{min(windows[what]):.2f} to {max(windows[what]):.2f}"
        row(
            f"{what} at {at:,.0f} a second",
            f"p99 {p99:.2f} ms, Python, {spread}",
            required,
            not required or p99 < limit_ms,
        )


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {
            name: free_port() for name in ("redis", "noop", "matchmaking", "prediction", "metrics")
        }
        redis_url = f"redis://:of-the-bench@127.0.0.1:{ports['redis']}/0"
        redis = subprocess.Popen(redis_command(redis_url, folder / "redis"))
        stack.callback(redis.wait)
        stack.callback(redis.terminate)
        wait_for_redis(redis_url, START_SECONDS)
        store = PolicyStore.at(folder / "policies")
        publish_policy(store)
        asyncio.run(publish_decision(redis_url))
        settings = {
            "redis_url": redis_url,
            "policy_store": store.files.root,
            "matchmaking_port": ports["matchmaking"],
            "prediction_port": ports["prediction"],
            "metrics_port": ports["metrics"],
            "gs_inventory_url": "local",
        }

        def start(*command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(process(sys.executable, *command, **settings))

        services = {}
        for name in ("matchmaking", "prediction"):
            services[name] = start("-m", f"services.{name}")
            seconds = wait_for(ports[name])
            row(f"{name} from start to listening", f"{seconds:.2f} s", "< 2 s", seconds < 2)
        with ExitStack() as others:
            for name in ("environment", "metrics"):
                command = (sys.executable, "-m", f"services.{name}")
                services[name] = others.enter_context(process(*command, **settings))
            measure_rest(services)
        measure_litert(store)
        start(str(Path(__file__).with_name("noop.py")), str(ports["noop"]))
        wait_for(ports["noop"])
        asyncio.run(publish_decision(redis_url))
        noop = Target(ports["noop"], "/noop")
        prediction = Target(ports["prediction"], "/prediction")
        webhook = Target(ports["prediction"], "/agones/scale", REVIEW)
        saturation = measure_rates(
            noop,
            {
                "GET /prediction": (prediction, 1.05),
                "POST /agones/scale": (webhook, 0.5),
                "POST /invocations": (
                    Target(ports["prediction"], "/invocations", OBSERVATION),
                    0.7,
                ),
                "POST /demand, append-only file on": (
                    Target(ports["matchmaking"], "/demand", '{"num_of_gameservers":79.5}'),
                    0.5,
                ),
            },
        )
        for name, target, limit_ms in (
            ("GET /prediction", prediction, 5),
            ("POST /agones/scale", webhook, 50),
        ):
            asyncio.run(publish_decision(redis_url))
            measure_latency(noop, name, target, saturation[name] / 2, limit_ms)


if __name__ == "__main__":
    main()
