"""The certificate and the key by which a hub speaks TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from fedjob.common.errors import ConfigError
from fedjob.common.files import write_atomic

AUTHORITY_NAME = "tls-authority.pem"
"""In a hub's home: the certificate of the private authority that its own is from, which invitations carry."""

SOON = timedelta(days=30)
"""For so long before its end a certificate is worth a warning."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the module ssl has no name for."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A server's certificate (with its chain) and key, as PEM files."""

    cert: Path
    key: Path

    def check(self) -> TlsFiles:
        """Return itself if the files can be used.

        Raises:
            ConfigError: they can't; says why.
        """
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"expected a PEM certificate and its key in {self.cert} and {self.key}: {error}"
            ) from error
        return self

    def context(self, client_authority: Path | None = None) -> ssl.SSLContext:
        """Return the context of a server.

        Args:
            client_authority: certificates of the authorities whose clients are asked for a certificate; who has none is
                let in without. The dates are not looked at, so that the server can say what is wrong with them.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert, self.key)
        if client_authority is not None:
            context.load_verify_locations(client_authority)
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= _NO_CHECK_TIME
        return context

    def is_issued_by(self, authority: Path) -> bool:
        """Return whether the chain of the certificate ends in a certificate of this file, or is signed by one.

        Raises:
            ConfigError: a file holds no certificate that can be read.
        """
        chain, issuers = _certificates(self.cert), _certificates(authority)
        return any(chain[-1] == issuer or _signs(issuer, chain[-1]) for issuer in issuers)

    def keep_authority(self, home: Path, given: Path | None) -> str:
        """Keep the certificate of the private authority that the server's is from in the hub's home, for invitations.

        Args:
            given: its file; None for the one that was given before, which goes when the server's certificate is from
                another authority by now.

        Returns:
            What the owner should know of it; empty for nothing.

        Raises:
            ConfigError: the given one did not sign the certificate, or can't be read.
        """
        kept = home / AUTHORITY_NAME
        if given is not None:
            if not self.is_issued_by(given):
                raise ConfigError(
                    f"{self.cert} is not signed by an authority in {given}: give --tls-ca the certificate that signed it, "
                    "or leave it out where a public authority did"
                )
            write_atomic(kept, given.read_bytes())
        elif kept.exists() and not self.is_issued_by(kept):
            kept.unlink()
            return (
                f"{self.cert} is from another authority than before, so that invitations carry none: start the hub with "
                "--tls-ca where it is a private one"
            )
        return ""

    def warnings(self, now: datetime | None = None) -> list[str]:
        """Return what the owner should know of the certificate's validity.

        Args:
            now: in UTC; None for the present.
        """
        now = now or datetime.now(UTC)
        try:
            certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())
        except (OSError, ValueError):
            return []  # `check` says what is wrong with it
        ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        if ends <= now:
            return [
                f"the certificate {self.cert} expired on {ends:%Y-%m-%d}: no node and no researcher will connect; "
                "renew it, see docs/tls.md"
            ]
        if begins > now:
            return [
                f"the certificate {self.cert} is valid from {begins:%Y-%m-%d %H:%M} UTC only: look at the clock"
            ]
        if ends - now < SOON:
            return [f"the certificate {self.cert} expires on {ends:%Y-%m-%d}: renew it, see docs/tls.md"]
        return []


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"expected certificates in PEM in {path}: {error}") from error


def _signs(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
