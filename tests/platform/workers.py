"""Services as processes of their own, who holds which fleet, and who commits to it."""

import json
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import redis

from services.cli.supervision import service_command
from shared.bus import Bus, keys
from tests.processes import Process

END = "the audit ends"
COMMITTED_FLEET = re.compile(keys.FLEET.format(fleet=r"(\S+)"))
LEASE = re.compile(r"\b\d+ \S+-[0-9a-f]{8}(?= |$)")


class Worker:
    """A service, an environment worker unless told; its log is a file of JSON lines."""

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        module: str = "services.environment",
        code: Path | None = None,
    ) -> None:
        """`code` is the folder of another release; without it the service is this tree's."""
        self.log = log
        environment = {**environment, "AUTOPILOT_LOG_FORMAT": "json"}
        self._process: Process | subprocess.Popen[bytes]
        if code is None:
            self._process = Process(module, env=environment, log=log)
            return
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                service_command(module),
                cwd=code,  # Python looks for modules there first
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (line for line in self.log.read_text().splitlines() if line.endswith("}"))
        return [event for event in map(json.loads, lines) if event["event"] == name]

    @property
    def ready(self) -> bool:
        return bool(self.events("fleets_held"))

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self, patience_s: float) -> int:
        """Ask it to end, and wait; its exit code. One that does not end is killed."""
        self._process.terminate()
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def owners(bus: Bus) -> dict[str, set[str]]:
    """Fleets by the worker that holds them."""
    held: dict[str, set[str]] = {}
    for fleet, lease in (await bus._client.hgetall(keys.LEASES)).items():
        held.setdefault(lease.decode().partition(" ")[2], set()).add(fleet.decode())
    return held


class Audit(threading.Thread):
    """Listens to all that Redis does: commits under a lease that the fleet has no more."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._listens = threading.Event()
        self.tried = 0
        self.went_on = 0
        """Commands of such commits beyond the look at the lease."""

    def __enter__(self) -> Self:
        self.start()
        self._listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        with redis.Redis.from_url(self._url) as client:
            client.echo(END)
        self.join()

    def run(self) -> None:
        leases: dict[str, str] = {}
        looks_at_lease = ""
        late = False
        client = redis.Redis.from_url(self._url, socket_timeout=None)
        with client, client.monitor() as monitor:
            self._listens.set()
            for heard in monitor.listen():
                line = heard["command"]
                if line == f"ECHO {END}":
                    return
                if heard["client_type"] == "lua":
                    self.went_on += late and line != looks_at_lease
                    match line.split(" ", 3):
                        case ["HSET", keys.LEASES, fleet, lease]:
                            leases[fleet] = lease
                        case ["HDEL", keys.LEASES, fleet]:
                            leases.pop(fleet, None)
                    continue
                fleet, lease = COMMITTED_FLEET.search(line), LEASE.search(line)
                late = False
                if fleet and lease and line.startswith("EVALSHA"):
                    looks_at_lease = f"HGET {keys.LEASES} {fleet[1]}"
                    late = leases.get(fleet[1]) != lease[0]
                    self.tried += late
