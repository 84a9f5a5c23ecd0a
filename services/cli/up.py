"""`autopilot up`: the whole platform on this machine."""

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from services.cli.embedded_redis import redis_command
from services.cli.output import print_table
from services.cli.play import trace_demands
from services.cli.supervision import (
    GAVE_UP,
    Program,
    Supervisor,
    check_port_free,
    service_command,
)
from shared.http.access import access_of
from shared.http.bearer import Bearer
from shared.http.tls import of_this_machine
from shared.http.tokens import READERS
from shared.redaction import redact
from shared.redis_address import keep_url
from shared.settings import Fleets, Settings

DEMO_STEPS_PER_SECOND = 5.0
"""Pace of the demo: a policy is trained within minutes; at 65 s per step it would take hours."""
DEMO_TRAINING_SECONDS = 20.0
"""Budget of a training job in the demo, unless AUTOPILOT_TIME_TOTAL_S is set."""
TABLE_EVERY_SECONDS = 30.0
POLL_SECONDS = 1.0
SHOWN_FLEETS = 8


@dataclass(frozen=True, slots=True)
class Playing:
    """The demand that is posted to the matchmaking service, and its pace."""

    trace: Path | None
    players_per_server: float
    steps_per_second: float

    def check(self) -> None:
        """Raise `BadInput` before anything starts when the trace can't be played."""
        if self.trace is not None:
            next(trace_demands(self.trace, self.players_per_server, repeat=False))

    def command(self, url: str) -> list[str]:
        """The `autopilot play` command that posts it, again from the start at its end."""
        what = ["--demand", "sine1h"]
        if self.trace is not None:
            what = [str(self.trace), "--players-per-server", str(self.players_per_server)]
        pace = ["--speed", str(self.steps_per_second), "--repeat", "--url", url]
        return service_command("services.cli", "play", *what, *pace)


class Platform:
    """The platform's processes, their addresses, their log and their status."""

    def __init__(
        self,
        settings: Settings,
        fleets: Fleets,
        playing: Playing | None,
        folder: Path,
        console: Console,
    ) -> None:
        self._settings = settings
        self._fleets = fleets
        self._playing = playing
        self._folder = folder
        self._console = console
        self._tokens = access_of(settings).tokens
        self._failed = False
        self._ended = threading.Event()

    def run(self) -> int:
        """Run until Ctrl-C, SIGTERM, or a process that fails for good. Returns the exit code."""
        self._check_ports()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._console.print("starting; Ctrl-C stops everything", style="bold")
        supervisor = Supervisor(list(self._programs()), self._folder, self._environment())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: supervisor.stop())
        status = threading.Thread(target=self._show_status, daemon=True)
        status.start()
        supervisor.pump(lambda line: self._pass_on(line, supervisor))
        self._ended.set()
        supervisor.wait()
        status.join()
        self._console.print("stopped; nothing is left running", style="bold")
        return int(self._failed)

    def _pass_on(self, line: str, supervisor: Supervisor) -> None:
        self._console.print(redact(line), markup=False, highlight=False, soft_wrap=True)
        if GAVE_UP in line:
            self._failed = True
            self._console.print("a service does not stay up; stopping", style="bold red")
            supervisor.stop()

    @property
    def _embeds_redis(self) -> bool:
        return "redis_url" not in self._settings.model_fields_set

    @property
    def _matchmaking(self) -> str:
        return f"http://{self._settings.host}:{self._settings.matchmaking_port}"

    @property
    def _prediction(self) -> str:
        scheme = "http" if self._settings.tls_cert_file is None else "https"
        return f"{scheme}://{self._settings.host}:{self._settings.prediction_port}"

    def _check_ports(self) -> None:
        settings = self._settings
        for purpose in ("prediction", "matchmaking", "metrics"):
            port = getattr(settings, f"{purpose}_port")
            check_port_free(settings.host, port, purpose, f"AUTOPILOT_{purpose.upper()}_PORT")
        if self._embeds_redis:
            check_port_free("127.0.0.1", settings.redis_port, "Redis", "AUTOPILOT_REDIS_PORT")

    def _programs(self) -> Iterator[Program]:
        if self._embeds_redis:
            url = keep_url("127.0.0.1", self._settings.redis_port)
            yield Program("redis", redis_command(url, self._folder / "redis"), stops_last=True)
        for name in ("matchmaking", "prediction", "environment"):
            yield Program(name, service_command(f"services.{name}"))
        if self._playing is not None:
            yield Program("play", self._playing.command(self._matchmaking))
        for name in ("metrics", "trainer"):
            yield Program(name, service_command(f"services.{name}"))

    def _environment(self) -> dict[str, str]:
        """The services' settings: ours, and the demo's pace where none was set.

        The address of an embedded Redis is not among them: every process reads it from its file.
        """
        default = next(iter(self._fleets.by_name.values()))
        given = default.model_fields_set
        environment = {
            "AUTOPILOT_POLICY_STORE": self._settings.policy_store,
            "AUTOPILOT_MATCHMAKING_URL": self._matchmaking,
            "AUTOPILOT_LOG_FORMAT": "console"
            if self._settings.log_format == "auto"
            else self._settings.log_format,
            "PYTHONUNBUFFERED": "1",
        }
        if self._playing is not None:
            pace = {
                "learning_freq": 1 / self._playing.steps_per_second,
                "time_total_s": DEMO_TRAINING_SECONDS,
            }
            environment |= {
                f"AUTOPILOT_{name.upper()}": str(value)
                for name, value in pace.items()
                if name not in given
            }
        return environment

    def _show_status(self) -> None:
        """Print the table at the start, when a policy changes, and every `TABLE_EVERY_SECONDS`.

        A table that equals the last one is not printed again.
        """
        shown: list[tuple[str, ...]] = []
        shown_at = 0.0
        auth = Bearer(self._tokens, READERS)
        with httpx.Client(timeout=2.0, auth=auth, verify=of_this_machine()) as client:
            while not self._ended.wait(POLL_SECONDS):
                answers = [self._ask(client, name) for name in self._fleets.names[:SHOWN_FLEETS]]
                if all(answer is None for answer in answers):
                    continue
                rows = [_row(*each) for each in zip(self._fleets.names, answers, strict=False)]
                who = [(row[0], row[1], row[-1]) for row in rows]
                news = who != [(row[0], row[1], row[-1]) for row in shown]
                late = time.monotonic() - shown_at > TABLE_EVERY_SECONDS
                if news or (late and rows != shown):
                    if not shown:
                        self._print_addresses()
                    shown, shown_at = rows, time.monotonic()
                    self._print_table(rows)

    def _ask(self, client: httpx.Client, fleet: str) -> dict[str, Any] | None:
        try:
            asked = {"fleet": fleet, "shadow": "true"}
            response = client.get(f"{self._prediction}/prediction", params=asked)
        except httpx.TransportError:
            return None
        answer: dict[str, Any] | None = response.json() if response.is_success else None
        return answer

    def _print_addresses(self) -> None:
        metrics = f"http://{self._settings.host}:{self._settings.metrics_port}/metrics"
        for name, address in (
            ("prediction", self._prediction),
            ("matchmaking", self._matchmaking),
            ("metrics", metrics),
        ):
            self._console.print(f"{name:12} {address}", markup=False, highlight=False)

    def _print_table(self, rows: list[tuple[str, ...]]) -> None:
        right = ("demand", "up", "target")
        headings = ("fleet", "policy version", *right, "")
        print_table(
            self._console, headings, rows, right=right, shrinking={"fleet", "policy version"}
        )


def _row(fleet: str, answer: dict[str, Any] | None) -> tuple[str, ...]:
    if answer is None:
        return (fleet, "no decision yet", "", "", "", "")
    told = answer["Prediction"]
    return (
        fleet,
        answer["policy_version"],
        f"{told['curr_demand']:.1f}",
        "" if answer["allocation"] is None else f"{answer['allocation']:.1f}",
        str(told["num_of_gameservers"]),
        "in shadow" if answer["shadow"] else answer["fallback"] or "",
    )
