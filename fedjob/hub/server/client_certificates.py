"""The check of who sends a request, beyond its token: the party's certificate, or its signature where none arrives."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection

from fedjob.common.errors import NotPermitted, SpecError
from fedjob.common.network.credentials import PROOF_HEADER
from fedjob.hub.config.authority import ClientAuthority
from fedjob.hub.storage.parties import Member
from fedjob.identity.client_certificate import public_key_hash, public_key_of_request, shown_certificate
from fedjob.identity.membership import BROKER_PATH
from fedjob.identity.request_signature import check_proof

CERTIFICATE = "fedjob.certificate"
"""Key in a connection's ASGI scope: the client's certificate in DER, whose chain TLS has checked; None for none."""


class ClientCertificates:
    """The certificates that a hub asks of its parties.

    Args:
        authority: that has issued them.
        valid_s: seconds for which the hub issues one.
        takes_proofs: accept a signature of the request where no certificate arrives, because something on the way ends
            TLS.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        authority: ClientAuthority,
        federation: str,
        *,
        valid_s: float,
        takes_proofs: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.authority = authority
        self._federation = federation
        self._valid_s = valid_s
        self._takes_proofs = takes_proofs
        self._clock = clock

    @property
    def facts(self) -> dict[str, str]:
        """What a party has to know of it: who issues certificates, and by which authority."""
        return {"from": "hub" if self.authority.is_own else "parties", "authority": self.authority.key_id}

    def check(self, connection: HTTPConnection, member: Member) -> None:
        """Accept a request of a party whose token is right.

        Raises:
            NotPermitted: it shows no certificate of the party, or a wrong one; the message says which.
        """
        der: bytes | None = connection.scope.get(CERTIFICATE)
        if der is not None:
            self.check_certificate(der, member)
            return
        proof = connection.headers.get(PROOF_HEADER, "")
        if not self._takes_proofs:
            raise NotPermitted(
                f"expected the certificate of {member.party} besides its token, found none: start again, to get one; "
                "where something on the way ends TLS no certificate arrives, and this hub (--only-certificates) can't "
                "be used from there"
            )
        if not proof:
            raise NotPermitted(
                f"expected the certificate of {member.party} besides its token, or its signature of the request, found "
                "neither: a token alone opens nothing; start again, to get a certificate"
            )
        method, path = connection.scope.get("method", "GET"), connection.scope["path"]
        check_proof(proof, member.key, self._federation, method, path, clock=self._clock)

    def check_named(self, der: bytes | None, party: str) -> None:
        """Accept the certificate with which somebody enrols as a party, at a hub that issues none.

        Raises:
            NotPermitted: there is none, or it is no certificate of that party.
        """
        if der is None:
            raise NotPermitted(
                f"this hub knows its parties by certificates of another authority: join with that of {party}, "
                "--tls-cert FILE and --tls-key FILE"
            )
        self.check_certificate(der, Member(party, "", "", False, ""))

    def check_certificate(self, der: bytes, member: Member) -> None:
        """Accept a certificate, whose chain was checked already, for a party.

        Raises:
            NotPermitted: it names another party, is not valid now, is not for clients, or has an old key.
        """
        try:
            shown = shown_certificate(der)
        except SpecError as error:
            raise NotPermitted(str(error)) from error
        now = datetime.fromtimestamp(self._clock(), UTC)
        if shown.ends <= now:
            raise NotPermitted(
                f"the certificate expired on {shown.ends:%Y-%m-%d %H:%M} UTC by this hub's clock ({now:%Y-%m-%d %H:%M}): "
                "start again, to get a new one; or set the clock that is wrong"
            )
        if shown.begins > now:
            raise NotPermitted(
                f"the certificate is valid from {shown.begins:%Y-%m-%d %H:%M} UTC only, by this hub's clock it is "
                f"{now:%Y-%m-%d %H:%M}: set the clock that is wrong"
            )
        if not shown.is_for_clients:
            raise NotPermitted("the certificate is not for clients: it is an authority's or a server's")
        if member.party not in shown.names:
            names = ", ".join(sorted(shown.names))[:200] or "nobody"
            raise NotPermitted(
                f"the certificate is of {names}, not of {member.party}, whose token came with it"
            )
        if self.authority.is_own and shown.key_hash != member.tls_key:
            raise NotPermitted(
                f"the certificate is of a key that {member.party} has no more: it joined again, or its home was "
                "copied; start again, to get a new one"
            )

    def issue(self, request: Any, party: str, key_hex: str) -> tuple[str, str]:
        """Return the certificate that a party asks for, in PEM, and the hash of its key.

        Args:
            request: as `identity.client_certificate.request_of` makes it.
            key_hex: the party's public Ed25519 key.

        Raises:
            SpecError: the request is malformed.
            NotPermitted: it is not signed by the party's key, or the hub issues none.
        """
        public_key = public_key_of_request(request, party, key_hex)
        pem = self.authority.issue(public_key, party, self._federation, self._valid_s)
        return pem, public_key_hash(public_key)


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
