"""The check of a client that wants to the broker, before a byte of it gets there: name, password and certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from fedjob.common.errors import NotPermitted
from fedjob.common.network.credentials import PROOF_HEADER
from fedjob.hub.broker.connect_packet import ConnectPacket
from fedjob.hub.server.client_certificates import CERTIFICATE, ClientCertificates
from fedjob.hub.storage.parties import Member, Parties, password_fits
from fedjob.identity.client_certificate import shown_certificate


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that may go to the broker.

    Args:
        packet: the CONNECT packet to send in its place.
        member: the party that it is; None for one without a name, which the broker refuses.
        ends: of its certificate's validity, seconds since 1970; None without one.
    """

    packet: bytes
    member: Member | None = None
    ends: float | None = None


class BrokerDoor:
    """The way from the hub's own ports to the broker.

    Args:
        inner_password: returns the password by which the broker knows a party, where that is not the party's own: then
            nobody reaches the broker past this door, whatever they know.
    """

    def __init__(
        self,
        parties: Parties,
        certificates: ClientCertificates,
        inner_password: Callable[[Member], str] | None = None,
    ) -> None:
        self._parties = parties
        self._certificates = certificates
        self._inner_password = inner_password

    def admit(self, packet: bytes, connect: ConnectPacket, connection: HTTPConnection) -> Admitted:
        """Return what goes to the broker.

        Args:
            packet: the CONNECT packet as it came.
            connection: by which the client came, with its certificate in the scope.

        Raises:
            NotPermitted: it may not go there; the message says why.
        """
        der: bytes | None = connection.scope.get(CERTIFICATE)
        if not connect.has_login:  # a client that asks which version of MQTT the broker speaks
            if der is None and PROOF_HEADER not in connection.headers:
                raise NotPermitted("expected a party's certificate, found none")
            return Admitted(packet)
        member = self._parties.by_name(connect.user)
        if member is None or not password_fits(connect.password, member.broker_hash):
            raise NotPermitted(f"{connect.user[:80]} and this password are of no party of this federation")
        self._certificates.check(connection, member)
        ends = None if der is None else shown_certificate(der).ends.timestamp()
        if self._inner_password is not None:
            packet = connect.with_password(self._inner_password(member))
        return Admitted(packet, member, ends)

    def present(self) -> dict[str, str]:
        """Return the parties that may come: name -> hash of the password, which changes when one joins again."""
        return {member.party: member.broker_hash for member in self._parties.all() if not member.revoked}
