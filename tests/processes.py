"""Services and commands as processes, forked from one that has imported them already.

To import what a service needs takes a second of a processor, and the tests start hundreds. A
process of these is as real as another: it has its own memory, signals, standard error and exit
code, and runs `__main__.py` anew. Only what importing itself would print or load is not seen:
tests of that start a new interpreter.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

SERVICES = ("cli", "environment", "matchmaking", "metrics", "prediction", "trainer")
MODULES = (*(f"services.{name}.__main__" for name in SERVICES), "services.prediction.serve")
REPOSITORY = Path(__file__).parents[1]
REQUEST_BYTES = 1 << 20
RUN_SECONDS = 60.0


class Process:
    """`python -m MODULE ARGUMENTS`; what tests use of `subprocess.Popen`, and in the same words.

    What it writes is read by `communicate`; with `log`, both of its outputs go there instead.
    """

    def __init__(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._files = [_output(log), _output(log)]
        self._report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        weakref.finalize(self, _close, [self._report, *self._files])
        request = {
            "words": words,
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
        }
        with theirs:
            _forker().start(request, [theirs.fileno(), *(file.fileno() for file in self._files)])
        self.pid = int(self._report.recv(100))

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        with contextlib.suppress(BlockingIOError):
            return self._wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._wait(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired("wait", timeout or 0.0) from None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has written to standard output and to standard error, once it has ended."""
        self.wait(timeout)
        return self.written(1), self.written(2)

    def written(self, number: int) -> str:
        """What it has written so far to standard output (1) or to standard error (2)."""
        file = self._files[number - 1].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._report.settimeout(timeout)
            self.returncode = int(self._report.recv(100))
            self._report.close()
        return self.returncode


def run(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS`, once it has ended."""
    process = Process(*words, env=env, cwd=cwd)
    try:
        output, errors = process.communicate(RUN_SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.wait(), output, errors)


def _output(log: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile() if log is None else log.open("ab")


def _close(opened: list[IO[bytes] | socket.socket]) -> None:
    for each in opened:
        each.close()


class _Forker:
    """The process that has imported everything; it ends with this one, whose socket it reads."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.processes", str(theirs.fileno())],
                cwd=REPOSITORY,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._requests.close()
        self._process.wait()

    def start(self, request: dict[str, Any], files: list[int]) -> None:
        socket.send_fds(self._requests, [json.dumps(request).encode()], files)


@functools.cache
def _forker() -> _Forker:
    return _Forker()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for every request; returns one in its own process, and None at the end."""
    while True:
        content, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 3)
        if not content:
            return None
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            report, *outputs = files
            if (child := os.fork()) == 0:
                os.close(report)
                for number, file in enumerate(outputs, start=1):
                    os.dup2(file, number)
                    os.close(file)
                request: dict[str, Any] = json.loads(content)
                return request
            _keep(child, report)
        for file in files:
            os.close(file)


def _keep(child: int, report: int) -> None:
    """Report a process's number and its exit code; its number is free once that was read."""
    os.write(report, str(child).encode())
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    killed = ended.si_code != os.CLD_EXITED
    with contextlib.suppress(OSError):
        os.write(report, str(-ended.si_status if killed else ended.si_status).encode())
        os.read(report, 1)
    os._exit(0)


def _become(words: list[str], env: dict[str, str], cwd: str) -> None:
    """Go on as this module does in a new interpreter."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for module in MODULES:
        importlib.import_module(module)
        del sys.modules[module]  # it runs anew, as the main module
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        request = _serve(requests)
    if request is not None:
        _become(**request)


if __name__ == "__main__":
    main()
