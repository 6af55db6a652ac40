"""The opening of a connection to a federation, and the connection that is used where none is given."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TypeVar

from fedjob.common.types import Address
from fedjob.identity.membership import fetch_parties
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.mqtt import MqttTransport
from fedjob.repository import open_repository
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.end_messages import release_again
from fedjob.researcher.connection.home import home_path
from fedjob.researcher.connection.joining import join

C = TypeVar("C", bound=Connection)


def open_connection(
    kind: type[C],
    hub: str | None = None,
    *,
    home: str | Path | None = None,
    id: str | None = None,
    invite: str | Path | None = None,
    tls_ca: str | Path | None = None,
    broker: str | None = None,
    repo: str | None = None,
    key: str | Path | None = None,
    strict: bool | None = None,
    timeout_s: float = 10.0,
) -> C:
    """Connect to a federation and make this the default connection.

    Nodes that have not received the end of a job are sent it once more.

    Args:
        kind: the class of what is returned; for the other arguments and for what is raised see `session.connect`.
    """
    folder = home_path(home)
    membership, identity = join(folder, hub=hub, id=id, invite=invite, tls_ca=tls_ca, key=key)
    roster = Roster(fetch_parties(membership), refresh=lambda: fetch_parties(membership))
    transport = MqttTransport(
        broker or membership.broker_url,
        Address(membership.party, secrets.token_hex(8)),
        membership.party,
        membership.broker_password,
        tls_ca=membership.tls_ca or None,
    )
    outbox = MemoryStore()
    endpoint = Endpoint(identity, membership.federation, roster, transport, outbox, "researcher")
    repository = open_repository(repo or membership.hub_url, token=membership.token, verify=membership.verify)
    try:
        endpoint.start(timeout_s)
    except BaseException:
        repository.close()
        raise
    connection = kind(folder, membership, identity, endpoint, repository, roster, outbox)
    connection.strict = connection.strict if strict is None else strict
    _default.connection = connection
    release_again(connection)
    return connection


class _Default:
    """The holder of the connection that is used where none is given."""

    connection: Connection | None = None


_default = _Default()


def default_connection(home: str | Path | None = None) -> Connection:
    """Return the connection that was opened last, or open the home's."""
    if _default.connection is None or not _default.connection.endpoint.connected:
        return open_connection(Connection, home=home)
    return _default.connection
