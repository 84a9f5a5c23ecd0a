"""AWS as moto's server plays it, over HTTP."""

import httpx
from moto.server import ThreadedMotoServer

from tests.conftest import free_port


class Moto:
    """CloudWatch and S3 on a port, which may be away; what they hold outlives a stop."""

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = None

    def start(self):
        """Go on where it stopped, or has not begun."""
        if self._server is not None:
            return
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self):
        if self._server is not None:
            self._server.stop()
            self._server = None

    def forget(self):
        httpx.post(f"{self.url}/moto-api/reset").raise_for_status()

    def check_credentials(self, *, on):
        """Refuse requests with credentials that are nobody's, which all of the tests' are."""
        requests = b"0" if on else b"inf"
        httpx.post(f"{self.url}/moto-api/reset-auth", content=requests).raise_for_status()
