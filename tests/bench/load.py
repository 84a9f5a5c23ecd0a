"""Load on an HTTP address: as much as it takes (wrk, else Python), or a steady rate."""

import asyncio
import gc
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

CONNECTIONS = 32
STEADY_CONNECTIONS = 16
DRAIN_SECONDS = 10.0
TICK_SECONDS = 0.001
"""What is due is sent this often; the wait counts as latency."""


@dataclass(frozen=True)
class Target:
    """A request to repeat."""

    port: int
    path: str
    body: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    @property
    def raw(self) -> bytes:
        method = "GET" if self.body is None else "POST"
        head = f"{method} {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        if self.body is not None:
            head += "Content-Type: application/json\r\n"
        body = self.body or ""
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def saturate(target: Target, seconds: float) -> float:
    """Requests a second with every connection always busy; raises when one is not answered 2xx."""
    if shutil.which("wrk"):
        return _requests_a_second(_wrk_report(target, seconds, CONNECTIONS))
    return uvloop.run(_closed_loop(target, seconds))


def near_rate(target: Target, rate: float, seconds: float) -> tuple[int, float, float] | None:
    """Always-busy connections that come nearest to a rate: how many, the rate, 99th percentile ms.

    None without wrk. Its clock is precise where a Python client's own work shows in the figure;
    but a late answer delays the next request, which `latencies_at` does not forgive.
    """
    if not shutil.which("wrk"):
        return None
    tried = []
    for connections in range(1, CONNECTIONS + 1):
        report = _wrk_report(target, seconds, connections)
        tried.append((connections, _requests_a_second(report), _percentile_ms(report)))
        if tried[-1][1] >= rate:
            break
    return min(tried, key=lambda run: abs(run[1] - rate))


def latencies_at(target: Target, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each request was due, whatever the ones before it took; sorted."""
    return uvloop.run(_open_loop(target, rate, seconds))


def _wrk_report(target: Target, seconds: float, connections: int) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if target.body is not None:
            script.write(f"wrk.method = 'POST'\nwrk.body = '{target.body}'\n")
            script.write("wrk.headers['Content-Type'] = 'application/json'\n")
        script.flush()
        load = ["-t1", f"-c{connections}", f"-d{int(seconds)}s", "--latency", "-s", script.name]
        report = subprocess.run(
            ["wrk", *load, target.url], capture_output=True, text=True, check=True
        ).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(report)
    return report


def _requests_a_second(report: str) -> float:
    found = re.search(r"Requests/sec:\s+([\d.]+)", report)
    assert found is not None, report
    return float(found[1])


def _percentile_ms(report: str) -> float:
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)", report)
    assert found is not None, report
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


class _Connection(asyncio.Protocol):
    """Sends a request and calls back on each answer; answers come in order."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parser = httptools.HttpResponseParser(self)
        self.due: deque[float] = deque()
        self.latencies: list[float] = []
        self.again = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def send(self, due: float) -> None:
        self.due.append(due)
        self.transport.write(self._raw)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not 200 <= status < 300:
            raise RuntimeError(f"answered {status}")
        now = time.perf_counter()
        self.latencies.append((now - self.due.popleft()) * 1e3)
        if self.again:
            self.send(now)


async def _connections(target: Target, count: int) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(
            lambda: _Connection(target.raw), "127.0.0.1", target.port
        )
        made.append(connection)
    return made


async def _closed_loop(target: Target, seconds: float) -> float:
    connections = await _connections(target, CONNECTIONS)
    start = time.perf_counter()
    for connection in connections:
        connection.again = True
        connection.send(start)
    await asyncio.sleep(seconds)
    for connection in connections:
        connection.again = False
    done = sum(len(connection.latencies) for connection in connections)
    elapsed = time.perf_counter() - start
    for connection in connections:
        connection.transport.close()
    return done / elapsed


async def _open_loop(target: Target, rate: float, seconds: float) -> list[float]:
    connections = await _connections(target, STEADY_CONNECTIONS)
    gc.disable()
    start = time.perf_counter()
    sent, total = 0, int(rate * seconds)
    while sent < total:
        due_now = min(int((time.perf_counter() - start) * rate) + 1, total)
        for number in range(sent, due_now):
            connections[number % STEADY_CONNECTIONS].send(start + number / rate)
        sent = due_now
        await asyncio.sleep(TICK_SECONDS)
    deadline = time.perf_counter() + DRAIN_SECONDS
    while any(connection.due for connection in connections):
        if time.perf_counter() > deadline:
            raise RuntimeError(f"requests are not answered within {DRAIN_SECONDS} s")
        await asyncio.sleep(0.01)
    gc.enable()
    for connection in connections:
        connection.transport.close()
    return sorted(latency for connection in connections for latency in connection.latencies)
