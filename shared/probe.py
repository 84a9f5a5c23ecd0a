"""The health check of containers: ``python -IS shared/probe.py WHAT``.

WHAT is the address of an HTTP service's `/readyz`, ``https://`` where it has a certificate, or the
heartbeat file of a worker. It uses only the standard library, without site-packages, since it runs
every few seconds in every container.
"""

import socket
import sys
import time
from pathlib import Path

WELL_SECONDS = 20.0
"""Age of a heartbeat from which a worker is unhealthy."""
ANSWER_SECONDS = 2.0


def beat(heartbeat: Path | None) -> None:
    """Touch the heartbeat file, if there is one."""
    if heartbeat is not None:
        heartbeat.touch()


def ailment(what: str) -> str | None:
    """What is wrong; None if the service is healthy."""
    scheme, _, address = what.partition("://")
    if address:
        return _http_ailment(address, encrypted=scheme == "https")
    try:
        age_s = time.time() - Path(what).stat().st_mtime
    except OSError as error:
        return f"no heartbeat yet: {error.strerror}"
    return f"the last heartbeat is {age_s:.0f} s old" if age_s > WELL_SECONDS else None


def _http_ailment(address: str, *, encrypted: bool) -> str | None:
    """Without an HTTP client, whose import takes twice as long as the whole check."""
    place, _, path = address.partition("/")
    host, _, port = place.partition(":")
    answer = b""
    try:
        with _connected(host, int(port), encrypted=encrypted) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
            while received := connection.recv(4096):
                answer += received
    except OSError as error:
        return f"{address} does not answer: {error}"
    status, _, rest = answer.partition(b"\r\n")
    return None if b" 200 " in status else rest.partition(b"\r\n\r\n")[2].decode() or str(status)


def _connected(host: str, port: int, *, encrypted: bool) -> socket.socket:
    connection = socket.create_connection((host, port), ANSWER_SECONDS)
    if not encrypted:
        return connection
    # Imported only if needed: it takes as long as the rest of the check.
    import ssl

    # The certificate is not verified: this checks health, from the same machine.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


if __name__ == "__main__":
    sys.exit(ailment(sys.argv[1]))
