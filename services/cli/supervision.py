"""Runs the platform's processes under supervisord, and passes on their combined log."""

import contextlib
import errno
import getpass
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BadInput

STOP_SECONDS = 3
"""How long a process may take to end before it is killed: Ctrl-C ends all within five seconds.

Whatever a kill cuts short is done again: a step by another worker, a training job by its retry.
"""
GAVE_UP = "entered FATAL state"
"""supervisord's message for a process that does not stay up."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process. Programs start in order, and all stop at once."""

    name: str
    command: Sequence[str]
    stops_last: bool = False
    """Only after the others have, which still write to it."""


def service_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this installation with this Python."""
    return [sys.executable, "-m", module, *arguments]


def check_port_free(host: str, port: int, purpose: str, variable: str) -> None:
    """Raise `BadInput`, with what to do, if a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise BadInput(
                    f"can't listen on {host}: {error.strerror}: set AUTOPILOT_HOST"
                ) from error
            raise BadInput(
                f"port {port} ({purpose}) is taken: is another platform up? "
                f"Stop what listens there, or set {variable} to a free port"
            ) from error


class Supervisor:
    """supervisord over a set of programs, from start to a stop with nothing left running."""

    def __init__(
        self, programs: Sequence[Program], folder: Path, environment: dict[str, str]
    ) -> None:
        self._configuration = folder / "supervisord.conf"
        self._configuration.write_text(_configuration(programs, folder))
        self._process = subprocess.Popen(  # noqa: S603 - our own words, no shell
            service_command("supervisor.supervisord", "-n", "-c", str(self._configuration)),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us only; we then stop it in order
        )

    def pump(self, write: Callable[[str], None]) -> None:
        """Pass on every log line until supervisord has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            write(line.decode(errors="replace").rstrip("\n"))

    def stop(self) -> None:
        """Stop every program, then supervisord; idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Exit code of supervisord, once it has ended."""
        return self._process.wait()


def _configuration(programs: Sequence[Program], folder: Path) -> str:
    as_root = f"user={getpass.getuser()}\n" if os.geteuid() == 0 else ""
    head = (
        "[supervisord]\n"
        f"{as_root}"
        "loglevel=warn\n"
        "nodaemon=true\n"
        f"logfile={_escaped(str(folder / 'supervisord.log'))}\n"
        f"pidfile={_escaped(str(folder / 'supervisord.pid'))}\n"
        f"childlogdir={_escaped(str(folder))}\n"
    )
    # One group stops at once; supervisord waits for it before it stops the group that began first.
    together = ",".join(program.name for program in programs if not program.stops_last)
    head += f"\n[group:services]\nprograms={together}\npriority={len(programs)}\n"
    return head + "".join(
        f"\n[program:{program.name}]\n"
        f"command={_escaped(shlex.join(program.command))}\n"
        f"priority={number}\n"
        "autorestart=true\n"
        "startsecs=1\n"
        "startretries=5\n"
        f"stopwaitsecs={STOP_SECONDS}\n"
        "killasgroup=true\n"
        "redirect_stderr=true\n"
        "stdout_logfile=/dev/stdout\n"
        "stdout_logfile_maxbytes=0\n"
        for number, program in enumerate(programs, start=1)
    )


def _escaped(text: str) -> str:
    """Supervisor expands % in its settings."""
    return text.replace("%", "%%")
