"""The check of a client that wants to the broker, beyond its name and password: the party's certificate."""

from __future__ import annotations

import asyncio
import ssl

from starlette.requests import HTTPConnection

from fedjob.hub.server.client_certificates import CERTIFICATE, ClientCertificates
from fedjob.hub.storage.parties import Member
from fedjob.identity.client_certificate import shown_certificate
from fedjob.identity.membership import BROKER_PATH


class BrokerDoor:
    """The door in the gate of the broker of a hub that asks for certificates."""

    def __init__(self, certificates: ClientCertificates) -> None:
        self._certificates = certificates

    def admit(self, member: Member, connection: HTTPConnection | asyncio.StreamWriter) -> float | None:
        """Return when the certificate of a client ends, seconds since 1970; None where it signed its request instead.

        Args:
            member: whose name and password it gave.
            connection: by which it came, over WebSocket or over TLS alone.

        Raises:
            NotPermitted: it may not go to the broker; the message says why.
        """
        if isinstance(connection, asyncio.StreamWriter):
            connection = _connection_of(connection)
        self._certificates.check(connection, member)
        der: bytes | None = connection.scope.get(CERTIFICATE)
        return None if der is None else shown_certificate(der).ends.timestamp()


def _connection_of(writer: asyncio.StreamWriter) -> HTTPConnection:
    """Return a connection over TLS in the shape in which one over WebSocket comes."""
    secure: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    der = None if secure is None else secure.getpeercert(binary_form=True)
    return HTTPConnection({"type": "http", "headers": [], "path": BROKER_PATH, CERTIFICATE: der})
