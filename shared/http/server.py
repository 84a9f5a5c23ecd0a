"""Serves an app on an address until a signal."""

import asyncio
import gc
import signal
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from shared.errors import BadSetting
from shared.http.tls import Certificate

STOP_SECONDS = 5
"""Time that requests have to finish after SIGTERM."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, certificate: Certificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate
        if certificate is not None:
            config.load()
            config.ssl = certificate.context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then exclude the objects that exist from garbage collection (saves 10 to 20 %)."""
        await super().startup(sockets)
        if self._certificate is not None:
            self._renewing = asyncio.create_task(self._certificate.renew_for_ever())
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)


def serve(app: ASGIApp, host: str, port: int, certificate: Certificate | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raises `BadSetting` when the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise BadSetting(
            f"can't listen on {host}:{port}: {reason}; end what uses the port, or set another "
            "AUTOPILOT_HOST or port"
        ) from error
    server = _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        ),
        certificate,
    )
    # uvicorn raises the signal again after it has stopped; that is a regular end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with listening:
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)
