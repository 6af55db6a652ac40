"""The authority behind the certificates with which parties show a hub who they are: the hub's own, or an organisation's.

X.509 v3 as in RFC 5280. The hub's own authority lies in its home: a self-signed ECDSA P-256 certificate and its key,
made when the hub first needs them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedjob.common.errors import ConfigError, NotPermitted
from fedjob.common.files import OF_OTHERS, make_folder, write_atomic
from fedjob.identity.client_certificate import dump_key, key_id_of, party_uri

FOLDER_NAME = "client-authority"
AUTHORITY_YEARS = 20
CLOCK_SKEW = timedelta(hours=1)
"""A certificate is valid from so long before it was made: clocks differ."""


class ClientAuthority:
    """The authority whose certificates a hub accepts from its parties.

    Args:
        path: PEM file with the authority's certificate, or with those of several; for the connection's TLS.
        key: with which the hub signs; None for an authority that is not the hub's own.
    """

    def __init__(self, path: Path, key: EllipticCurvePrivateKey | None = None) -> None:
        self.path = path
        self._key = key
        try:
            self._certificates = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"expected the certificate of the authority of the parties in {path}, a PEM file: {error}"
            ) from error

    @classmethod
    def load_or_create(cls, home: Path, federation: str) -> ClientAuthority:
        """Return the authority of a hub's home, which is made on first use.

        Raises:
            ConfigError: one of its files is missing, damaged, or can be read by others.
        """
        folder = home / FOLDER_NAME
        key_path, path = folder / "key.pem", folder / "certificate.pem"
        if not path.exists() and not key_path.exists():
            make_folder(folder)
            key = ec.generate_private_key(ec.SECP256R1())
            write_atomic(key_path, dump_key(key))
            write_atomic(path, _self_signed(key, federation).public_bytes(serialization.Encoding.PEM))
        signing = _load_key(key_path, path)
        found = cls(path, signing)
        if found.key_id != key_id_of(signing.public_key()):
            raise ConfigError(
                f"{key_path} is not the key of {path}: restore both from the same backup, or remove {folder}: a new "
                "authority is made, and parties get new certificates by themselves"
            )
        return found

    @property
    def is_own(self) -> bool:
        """True if the hub itself issues certificates."""
        return self._key is not None

    @property
    def key_id(self) -> str:
        """What its certificates call it by, in hex; by it parties see that it was made anew."""
        return key_id_of(self._certificates[0].public_key())

    def issue(
        self, public_key: ec.EllipticCurvePublicKey, party: str, federation: str, valid_s: float
    ) -> str:
        """Return a client certificate for a party's key, in PEM.

        Args:
            valid_s: seconds from now until its end.

        Raises:
            NotPermitted: the authority is not the hub's own.
        """
        authority = self._certificates[0]
        if self._key is None:
            raise NotPermitted(
                f"this hub issues no certificates: parties bring those of {authority.subject.rfc4514_string()}, with "
                "the settings tls_cert and tls_key"
            )
        now, valid = datetime.now(UTC), timedelta(seconds=valid_s)
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
                x509.NameAttribute(NameOID.COMMON_NAME, party),
            ]
        )
        uri = x509.UniformResourceIdentifier(party_uri(party))
        made = (
            _builder(name, authority.subject, public_key, now - min(CLOCK_SKEW, valid), now + valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier(bytes.fromhex(self.key_id), None, None), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def has_signed(self, der: bytes) -> bool:
        """Return whether a certificate was signed by this authority, dates aside."""
        certificate = x509.load_der_x509_certificate(der)
        for authority in self._certificates:
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return True
        return False


def _self_signed(key: EllipticCurvePrivateKey, federation: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"parties of {federation}")])
    now = datetime.now(UTC)
    return (
        _builder(name, name, key.public_key(), now - CLOCK_SKEW, now + timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    begins: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier(bytes.fromhex(key_id_of(public_key))), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(path: Path, certificate: Path) -> EllipticCurvePrivateKey:
    try:
        mode = path.stat().st_mode & 0o777
        if mode & OF_OTHERS:
            raise ConfigError(f"others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
        found = serialization.load_pem_private_key(path.read_bytes(), None)
        if isinstance(found, EllipticCurvePrivateKey):
            return found
        raise ValueError("it is of another kind")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"expected the key of {certificate} in {path}: {error}; restore it from a backup, or remove "
            f"{path.parent}: a new authority is made, and parties get new certificates by themselves"
        ) from error
