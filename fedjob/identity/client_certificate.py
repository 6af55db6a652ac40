"""The certificate with which a party shows its hub who it is, besides its token, and the key of it.

The key is made in the party's home and never leaves it: ECDSA on P-256, which OpenSSL, requests, paho, uvicorn,
Mosquitto and nginx all take. The hub gets a request for a certificate (PKCS #10, RFC 2986), signed by this key and by
the party's identity, so that whoever has a token alone gets no certificate by it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedjob.common.errors import ConfigError, NotPermitted, SpecError
from fedjob.common.files import OF_OTHERS, fsync_dir, make_folder, write_atomic
from fedjob.identity.keys import Identity, verify

E = TypeVar("E", bound=x509.ExtensionType)

CERTIFICATE_NAME = "keys/tls.pem"
KEY_NAME = "keys/tls.key"
RENEW_AFTER = 2 / 3
"""Share of its validity after which a certificate is renewed."""

MAX_REQUEST_BYTES = 8 << 10
_SIGNED = b"fedjob request for a certificate 1\n"
_PAGE = "docs/tls.md"


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """What a party's certificate says.

    Args:
        names: of the parties that it names.
        key_hash: SHA-256 of its public key, in hex.
        begins, ends: of its validity, in UTC.
        issuer: its name.
        is_for_clients: its extensions allow its use by a client.
    """

    names: frozenset[str]
    key_hash: str
    begins: datetime
    ends: datetime
    issuer: str
    is_for_clients: bool


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The files of a party's certificate and key.

    Args:
        cert: PEM file, with the chain up to the authority where it has one.
        key: PEM file, mode 0600.
        is_own: the party brings it itself, from an authority of its organisation; fedjob does not renew it.
    """

    cert: str
    key: str
    is_own: bool = False

    @property
    def files(self) -> tuple[str, str]:
        """The two files, as requests takes them."""
        return self.cert, self.key

    def check(self) -> ClientCertificate:
        """Return itself if the files can be used.

        Raises:
            ConfigError: one is missing, damaged or not of the other, or the key can be read by others.
        """
        for path, what in ((self.cert, "certificate"), (self.key, "key of the certificate")):
            if not Path(path).is_file():
                raise ConfigError(f"there is no {what} of this party in {path}: {self._advice}")
        mode = Path(self.key).stat().st_mode & 0o777
        if mode & OF_OTHERS:
            raise ConfigError(f"others may read {self.key} (mode {mode:o}): run `chmod 600 {self.key}`")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"expected a certificate and its key in {self.cert} and {self.key}, PEM files without a passphrase: "
                f"{getattr(error, 'reason', '') or error}; {self._advice}"
            ) from error
        return self

    def load(self) -> x509.Certificate:
        """Return the certificate.

        Raises:
            ConfigError: it can't be read.
        """
        try:
            return x509.load_pem_x509_certificate(Path(self.cert).read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"expected this party's certificate in {self.cert}: {error}; {self._advice}"
            ) from error

    @property
    def _advice(self) -> str:
        if self.is_own:
            return f"give others, the settings tls_cert and tls_key; see {_PAGE}"
        return f"start again, and the hub issues a new one; see {_PAGE}"


def own_certificate(cert: str | Path | None, key: str | Path | None) -> ClientCertificate | None:
    """Return the certificate that a party brings itself; None where none is given.

    Raises:
        ConfigError: one of the two files is missing, or they can't be used.
    """
    if not cert and not key:
        return None
    if not cert or not key:
        raise ConfigError(
            "expected --tls-cert and --tls-key together (tls_cert and tls_key), found one of them"
        )
    files = [str(Path(path).expanduser().absolute()) for path in (cert, key)]
    return ClientCertificate(files[0], files[1], is_own=True).check()


def describe(certificate: ClientCertificate) -> ShownCertificate:
    """Return what a certificate in files says.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return shown_certificate(certificate.load().public_bytes(serialization.Encoding.DER))
    except SpecError as error:
        raise ConfigError(f"{certificate.cert}: {error}") from error


@lru_cache(maxsize=4096)
def shown_certificate(der: bytes) -> ShownCertificate:
    """Return what a certificate says.

    Raises:
        SpecError: it can't be read.
    """
    try:
        found = x509.load_der_x509_certificate(der)
        names = {str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
        alternative = _extension(found, x509.SubjectAlternativeName)
        if alternative is not None:
            uris = alternative.get_values_for_type(x509.UniformResourceIdentifier)
            named = {uri.removeprefix(party_uri("")) for uri in uris if uri.startswith(party_uri(""))}
            names = named or names
        usages = _extension(found, x509.ExtendedKeyUsage)
        constraints = _extension(found, x509.BasicConstraints)
        return ShownCertificate(
            names=frozenset(names),
            key_hash=public_key_hash(found.public_key()),
            begins=found.not_valid_before_utc,
            ends=found.not_valid_after_utc,
            issuer=found.issuer.rfc4514_string(),
            is_for_clients=(usages is None or ExtendedKeyUsageOID.CLIENT_AUTH in usages)
            and not (constraints is not None and constraints.ca),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SpecError(f"the certificate can't be read: {error}") from error


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_due(certificate: ClientCertificate, issuer_key_id: str, now: datetime | None = None) -> bool:
    """Return whether the hub should issue a new certificate: there is none that can be used, or it soon can't be.

    Args:
        issuer_key_id: of the hub's present authority, see `key_id_of`.
        now: in UTC; None for the present.
    """
    now = now or datetime.now(UTC)
    try:
        found = certificate.check().load()
    except ConfigError:
        return True
    return _issued_by(found) != issuer_key_id or now.timestamp() > _renew_at(found)


def validity(certificate: ClientCertificate) -> tuple[float, float, float]:
    """Return when a certificate begins, is to be renewed, and ends, in seconds since 1970.

    Raises:
        ConfigError: it can't be read.
    """
    found = certificate.load()
    return found.not_valid_before_utc.timestamp(), _renew_at(found), found.not_valid_after_utc.timestamp()


def request_of(home: Path, identity: Identity) -> dict[str, str]:
    """Return a request for a certificate, as the hub takes it; the key in the home is made if it is not there.

    Raises:
        ConfigError: the key can be read by others.
    """
    key = _key_of(home)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.party)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    der = made.public_bytes(serialization.Encoding.DER)
    return {
        "csr": made.public_bytes(serialization.Encoding.PEM).decode(),
        "csr_signature": identity.sign(_signed(identity.party, der)).hex(),
    }


def public_key_of_request(request: Any, party: str, key_hex: str) -> ec.EllipticCurvePublicKey:
    """Return the public key for which a party asks for a certificate.

    Args:
        request: `csr` and `csr_signature`, as `request_of` makes them.
        key_hex: the party's public Ed25519 key.

    Raises:
        SpecError: it is malformed, or of a key of another kind.
        NotPermitted: it is not signed by the party's key.
    """
    match request:
        case {"csr": str(text), "csr_signature": str(signature)} if len(text) <= MAX_REQUEST_BYTES:
            pass
        case _:
            raise SpecError("expected a request for a certificate: csr (PEM) and csr_signature (hex)")
    try:
        found = x509.load_pem_x509_csr(text.encode())
        public_key, is_whole = found.public_key(), found.is_signature_valid
        der, raw = found.public_bytes(serialization.Encoding.DER), bytes.fromhex(signature)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SpecError(f"the request for a certificate can't be read: {error}") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != "secp256r1":
        raise SpecError("expected a request for a certificate of an ECDSA key on P-256")
    if not is_whole or not verify(key_hex, raw, _signed(party, der)):
        raise NotPermitted(
            f"the request for a certificate is not signed by the key of {party}: a token alone is not enough for one"
        )
    return public_key


def store(home: Path, pem: str) -> ClientCertificate:
    """Keep the certificate that a hub issued in a home; return it.

    Raises:
        ConfigError: it is none, or not of the home's key; what was there stays.
    """
    fresh = home / f"{CERTIFICATE_NAME}.{secrets.token_hex(4)}.tmp"
    write_atomic(fresh, pem.encode())
    try:
        ClientCertificate(str(fresh), str(home / KEY_NAME)).check()
        fresh.replace(home / CERTIFICATE_NAME)
    finally:
        fresh.unlink(missing_ok=True)
    return certificate_of_home(home)


def certificate_of_home(home: Path) -> ClientCertificate:
    """Return the certificate that a home keeps, whether it is there or not."""
    return ClientCertificate(str(home / CERTIFICATE_NAME), str(home / KEY_NAME))


def party_uri(party: str) -> str:
    """Return the subjectAltName by which a certificate names a party."""
    return f"fedjob:party:{party}"


def public_key_hash(key: Any) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo, DER) in hex."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def key_id_of(key: Any) -> str:
    """Return what certificates call an authority by: the first 160 bits of the hash of its key, in hex (RFC 7093)."""
    return public_key_hash(key)[:40]


def _renew_at(certificate: x509.Certificate) -> float:
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return begins + (ends - begins) * RENEW_AFTER


def _issued_by(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return (found.key_identifier or b"").hex()


def _signed(party: str, der: bytes) -> bytes:
    return _SIGNED + party.encode() + b"\n" + der


def _key_of(home: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key of a home's certificate; one that is missing or can't be read is made anew."""
    path = home / KEY_NAME
    if path.exists():
        mode = path.stat().st_mode & 0o777
        if mode & OF_OTHERS:
            raise ConfigError(f"others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
        try:
            found = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            found = None
        if isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.name == "secp256r1":
            return found
        path.unlink()
    make_folder(path.parent)
    pem = dump_key(ec.generate_private_key(ec.SECP256R1()))
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    write_atomic(fresh, pem)
    with suppress(FileExistsError):  # another process of this home made one meanwhile
        os.link(fresh, path)
    fresh.unlink()
    fsync_dir(path.parent)
    made = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(made, ec.EllipticCurvePrivateKey)
    return made


def dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as a PEM file has it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
