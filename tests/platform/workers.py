"""Environment workers as processes of their own, and who holds which fleet."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from services.cli.supervision import service_command
from shared.bus import Bus, keys


class Worker:
    """An environment worker; its log is a file of JSON lines."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                service_command("services.environment"),
                env={**environment, "AUTOPILOT_LOG_FORMAT": "json"},
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

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def owners(bus: Bus) -> dict[str, set[str]]:
    """Fleets by the worker that holds them."""
    held: dict[str, set[str]] = {}
    for fleet, lease in (await bus._client.hgetall(keys.LEASES)).items():
        held.setdefault(lease.decode().partition(" ")[2], set()).add(fleet.decode())
    return held
