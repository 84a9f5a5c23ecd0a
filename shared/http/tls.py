"""A certificate that is renewed while it serves."""

import asyncio
import ssl
from pathlib import Path

import structlog

from shared.errors import BadSetting

LOOK_SECONDS = 2.0
"""How often the files are read again; both are a few kB."""

_log = structlog.get_logger(__name__)


class Certificate:
    """A certificate and its key in mounted files, such as cert-manager renews.

    Each handshake takes the newest pair that was whole and fitted together; connections that are
    open keep what they have. A mount is swapped at once (Kubernetes' symlink ``..data``), but a
    file that is written in place is for a while half a certificate, or one with another's key.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Raises `BadSetting` when the files can't be used."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._refused = False
        try:
            self._read = self._contents()
            self._newest = self._load()
        except OSError as error:  # ssl.SSLError is one
            raise BadSetting(
                f"AUTOPILOT_TLS_CERT_FILE={cert_file}, AUTOPILOT_TLS_KEY_FILE={key_file}: can't "
                f"use them: {_reason(error)}; give a PEM certificate and its key"
            ) from error
        self.context = self._load()
        self.context.sni_callback = self._hand_out

    def _hand_out(self, handshake: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """OpenSSL asks at every handshake, also where the caller names no server."""
        handshake.context = self._newest

    async def renew_for_ever(self) -> None:
        """Look for new files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Serve what the files have now, if it is new and can be used; else go on as before."""
        try:
            contents = self._contents()
            if contents == self._read:
                return
            newest = self._load()
        except OSError as error:
            if not self._refused:
                self._refused = True
                _log.warning(
                    "certificate_not_renewed",
                    reason=_reason(error),
                    file=str(self._cert_file),
                    advice="the one before goes on serving; mend the files",
                )
            return
        self._read, self._newest, self._refused = contents, newest, False
        _log.info("certificate_renewed", file=str(self._cert_file))

    def _contents(self) -> tuple[bytes, bytes]:
        return self._cert_file.read_bytes(), self._key_file.read_bytes()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password of its own, OpenSSL would ask for an encrypted key's on the terminal.
        context.load_cert_chain(self._cert_file, self._key_file, password="")
        return context


def of_this_machine() -> ssl.SSLContext:
    """For a caller on the same machine: the certificate names the service as others call it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return f"{error.filename}: {error.strerror}"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "not a whole PEM certificate and a whole PEM key without a password"
