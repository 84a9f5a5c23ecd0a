"""A certificate authority for tests: certificates for 127.0.0.1, made on the fly."""

import ipaddress
import itertools
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """Signs; its certificate is what an Agones `caBundle` has."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Tests' authority")
        self._numbers = itertools.count(1)
        self._certificate = self._signed(self._name, self._key.public_key(), authority=True)

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def trusting(self) -> ssl.SSLContext:
        """For a client that trusts this authority and nobody else."""
        return ssl.create_default_context(cadata=self.pem)

    def issue(self, password: bytes | None = None) -> tuple[bytes, bytes]:
        """A certificate and its key, PEM; each has the next serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(_name("prediction"), key.public_key(), authority=False)
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
        return (
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption),
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        unsigned = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(next(self._numbers))
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(_usage(authority=authority), critical=True)
        )
        if not authority:
            here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            unsigned = unsigned.add_extension(
                x509.SubjectAlternativeName([here, x509.DNSName("localhost")]), critical=False
            )
        return unsigned.sign(self._key, hashes.SHA256())


def a_certificate(folder: Path, authority: Authority | None = None) -> tuple[Path, Path]:
    """A certificate and its key as files."""
    certificate, key = (authority or Authority()).issue()
    files = folder / "tls.crt", folder / "tls.key"
    files[0].write_bytes(certificate)
    files[1].write_bytes(key)
    return files


def mount(folder: Path, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    """Files as Kubernetes mounts a secret: a renewal swaps the symlink ``..data`` at once."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    (version / "tls.crt").write_bytes(certificate)
    (version / "tls.key").write_bytes(key)
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.replace(folder / "..data")
    files = folder / "tls.crt", folder / "tls.key"
    for file in files:
        if not file.is_symlink():
            file.symlink_to(Path("..data") / file.name)
    return files


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
