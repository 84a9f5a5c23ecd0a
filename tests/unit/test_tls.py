"""A certificate that is renewed: what callers are shown, and what is refused."""

import socket
import ssl
import threading

import pytest
import structlog

from shared.errors import BadSetting
from shared.http.tls import Certificate
from tests.certificates import Authority, mount

AUTHORITY = Authority()


def shown(certificate: Certificate, name: str | None = "127.0.0.1") -> int:
    """Serial number that a caller sees who trusts the authority; without a name it sends none."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with certificate.context.wrap_socket(theirs, server_side=True) as connection:
            connection.recv(1)

    server = threading.Thread(target=serve)
    server.start()
    trusting = AUTHORITY.trusting()
    trusting.check_hostname = name is not None
    with trusting.wrap_socket(ours, server_hostname=name) as connection:
        found = connection.getpeercert()
        connection.sendall(b"x")
    server.join()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


@pytest.fixture
def mounted(tmp_path):
    """Mounts the authority's next certificate, or other contents."""

    def swap(contents=None):
        return mount(tmp_path, *(AUTHORITY.issue() if contents is None else contents))

    return swap


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", None])
def test_after_a_renewal_new_callers_see_the_new_one(mounted, name):
    certificate = Certificate(*mounted())
    first = shown(certificate, name)
    certificate.renew()
    assert shown(certificate, name) == first
    mounted()
    assert shown(certificate, name) == first
    with structlog.testing.capture_logs() as logs:
        certificate.renew()
        certificate.renew()
    assert shown(certificate, name) == first + 1
    assert [entry["event"] for entry in logs] == ["certificate_renewed"]


def test_a_connection_that_is_open_stays(mounted):
    certificate = Certificate(*mounted())
    ours, theirs = socket.socketpair()
    echoed = []

    def serve() -> None:
        with certificate.context.wrap_socket(theirs, server_side=True) as connection:
            while received := connection.recv(16):
                echoed.append(received)
                connection.sendall(received)

    server = threading.Thread(target=serve)
    server.start()
    with AUTHORITY.trusting().wrap_socket(ours, server_hostname="127.0.0.1") as connection:
        for word in (b"before", b"after"):
            connection.sendall(word)
            assert connection.recv(16) == word
            mounted()
            certificate.renew()
    server.join()
    assert echoed == [b"before", b"after"]


CERTIFICATE, KEY = AUTHORITY.issue()
NOT_WHOLE = "not a whole PEM certificate and a whole PEM key without a password"
UNUSABLE = {
    "half a certificate": (CERTIFICATE[:200], KEY, NOT_WHOLE),
    "an empty file": (b"", KEY, NOT_WHOLE),
    "half a key": (CERTIFICATE, KEY[:50], NOT_WHOLE),
    "no PEM": (CERTIFICATE, b"secret", NOT_WHOLE),
    "a locked key": (*AUTHORITY.issue(b"open sesame"), NOT_WHOLE),
    "another's key": (CERTIFICATE, AUTHORITY.issue()[1], "the key is not the certificate's"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_can_not_be_used_is_warned_of_once_and_the_old_one_serves(mounted, case):
    *contents, why = UNUSABLE[case]
    certificate = Certificate(*mounted())
    first = shown(certificate)
    mounted(contents)
    with structlog.testing.capture_logs() as logs:
        certificate.renew()
        certificate.renew()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("certificate_not_renewed", "warning")
    ]
    assert logs[0]["reason"] == why
    assert shown(certificate) == first
    mounted()
    certificate.renew()
    assert shown(certificate) > first


def test_files_that_are_gone_for_a_while(mounted, tmp_path):
    certificate = Certificate(*mounted())
    first = shown(certificate)
    (tmp_path / "..data").unlink()
    with structlog.testing.capture_logs() as logs:
        certificate.renew()
    assert "No such file" in logs[0]["reason"]
    assert shown(certificate) == first


def test_a_start_without_a_usable_pair_is_a_wrong_setting(mounted, tmp_path):
    files = mounted((CERTIFICATE, b"secret"))
    with pytest.raises(BadSetting, match=r"AUTOPILOT_TLS_CERT_FILE=.*tls.crt.*give a PEM"):
        Certificate(*files)
    with pytest.raises(BadSetting, match="No such file or directory"):
        Certificate(tmp_path / "none.crt", tmp_path / "none.key")


def test_old_versions_of_tls_are_refused(mounted):
    context = Certificate(*mounted()).context
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
