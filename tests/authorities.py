"""Certificates of every kind that a test needs: authorities, servers', parties', good ones and wrong ones."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedjob.identity.client_certificate import dump_key

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """An authority of a test's own.

    Args:
        folder: for its files; `ca.pem` is its certificate.
    """

    def __init__(self, folder: Path, name: str = "authority of a test") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate: x509.Certificate | None = None
        made = self._builder(self._name, self._key.public_key(), (-DAY, 365 * DAY))
        usage = {name: name in ("key_cert_sign", "crl_sign") for name in _USAGES}
        self._certificate = (
            made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.cert = folder / "ca.pem"
        self.cert.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    @classmethod
    def of_hub(cls, home: Path, folder: Path) -> Authority:
        """Return the authority that a hub's home holds, so that it signs what that hub never would."""
        found = cls(folder)
        key = load_pem_private_key((home / "client-authority" / "key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        found.cert = home / "client-authority" / "certificate.pem"
        found._key = key
        found._certificate = x509.load_pem_x509_certificate(found.cert.read_bytes())
        found._name = found._certificate.subject
        return found

    def server(self, name: str = "server", host: str = "127.0.0.1") -> Pair:
        """Return a server's certificate for an address and `localhost`."""
        names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
        return self.issue(name, uris=names, usages=[ExtendedKeyUsageOID.SERVER_AUTH])

    def client(
        self, name: str, *, uri: str = "", valid: tuple[timedelta, timedelta] = (-DAY, DAY), file: str = ""
    ) -> Pair:
        """Return a client's certificate."""
        uris = [x509.UniformResourceIdentifier(uri)] if uri else []
        return self.issue(name, uris=uris, usages=[ExtendedKeyUsageOID.CLIENT_AUTH], valid=valid, file=file)

    def issue(
        self,
        name: str,
        *,
        uris: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
        valid: tuple[timedelta, timedelta] = (-DAY, DAY),
        file: str = "",
    ) -> Pair:
        """Return a certificate with everything as it is given."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        builder = self._builder(subject, key.public_key(), valid)
        if uris:
            builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
        made = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False).sign(
            self._key, hashes.SHA256()
        )
        pair = Pair(self._folder / f"{file or name or 0}.pem", self._folder / f"{file or name or 0}.key")
        pair.cert.write_bytes(made.public_bytes(Encoding.PEM))
        pair.key.write_bytes(dump_key(key))
        pair.key.chmod(0o600)
        return pair

    def _authority_key_identifier(self) -> x509.AuthorityKeyIdentifier:
        if self._certificate is None:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        found = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)

    def reissue(self, certificate: x509.Certificate, valid: tuple[timedelta, timedelta]) -> bytes:
        """Return a certificate with the subject and key of another, in PEM."""
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        made = self._builder(certificate.subject, key, valid).sign(self._key, hashes.SHA256())
        return made.public_bytes(Encoding.PEM)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, valid: tuple[timedelta, timedelta]
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._authority_key_identifier(), critical=False)
        )


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
