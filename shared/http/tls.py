"""A TLS certificate that is reloaded when it is renewed."""

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

    Each handshake uses the newest valid pair; open connections keep theirs. A mount is swapped
    atomically (Kubernetes' symlink ``..data``), but files that are written in place may for a while
    be an incomplete certificate, or one with another key.
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
        """Called by OpenSSL at every handshake, also if the caller names no server."""
        handshake.context = self._newest

    async def renew_for_ever(self) -> None:
        """Check for new files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Use the files' present content if it is new and valid; else keep the previous one."""
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
                    advice="the previous certificate stays in use; fix the files",
                )
            return
        self._read, self._newest, self._refused = contents, newest, False
        _log.info("certificate_renewed", file=str(self._cert_file))

    def _contents(self) -> tuple[bytes, bytes]:
        return self._cert_file.read_bytes(), self._key_file.read_bytes()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password, OpenSSL would prompt for that of an encrypted key on the terminal.
        context.load_cert_chain(self._cert_file, self._key_file, password="")
        return context


def of_this_machine() -> ssl.SSLContext:
    """A context for a caller on this machine, for whose names certificates are not issued."""
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
