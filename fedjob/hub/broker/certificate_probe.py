"""A probe of whether a broker that somebody else runs asks for parties' certificates, and takes their names from them.

It sends logins that nobody has and reads what the broker says: nothing secret leaves, so that the broker's own
certificate does not matter here.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedjob.common.files import write_atomic
from fedjob.hub.broker.access import HUB_USER
from fedjob.hub.broker.probe import login_packet
from fedjob.hub.config.authority import ClientAuthority
from fedjob.identity.client_certificate import dump_key

TIMEOUT_S = 5.0
VALID_S = 300.0
_CONNACK = 0x20


def asks_for_certificate(host: str, port: int) -> bool:
    """Return whether a broker with TLS answers nobody without a certificate.

    Raises:
        OSError: it can't be reached, or does not speak TLS.
    """
    return _answer(host, port, None) is None


def names_by_certificate(host: str, port: int, authority: ClientAuthority, federation: str) -> bool:
    """Return whether a certificate alone says who somebody is: one of the hub's is let in whatever name and password it gives.

    Args:
        authority: the hub's own.

    Raises:
        OSError: it can't be reached.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = authority.issue(key.public_key(), HUB_USER, federation, VALID_S)
    with tempfile.TemporaryDirectory(prefix="fedjob-probe-") as folder:
        path = Path(folder) / "hub.pem"
        write_atomic(path, pem.encode() + dump_key(key))
        return _answer(host, port, path) == 0


def _answer(host: str, port: int, certificate: Path | None) -> int | None:
    """Return the code of the broker's answer to a login that nobody has; None where it ends the connection instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                secure.sendall(login_packet("nobody", secrets.token_hex(16)))
                found = b""
                while len(found) < 4 and (block := secure.recv(4 - len(found))):
                    found += block
                return found[3] if len(found) == 4 and found[0] == _CONNACK else None
        except (ssl.SSLError, ConnectionError) as error:
            # TLS 1.3 says that a certificate is missing after the handshake, TLS 1.2 within it.
            if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF"):
                raise
            return None
