"""The opening of a connection to a federation, and the connection that is used where none is given."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import TypeVar

from fedjob.common.errors import FedjobError
from fedjob.common.types import Address
from fedjob.identity.membership import Membership, fetch_hub, fetch_parties
from fedjob.identity.roster import Roster
from fedjob.messaging.clock import clock_text, hub_ahead_s
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.mqtt import MqttTransport
from fedjob.repository import open_repository
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.end_messages import release_again
from fedjob.researcher.connection.home import home_path
from fedjob.researcher.connection.joining import join

C = TypeVar("C", bound=Connection)

_log = logging.getLogger("fedjob")


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
    connection.clock = _compare_clocks(membership)
    _default.connection = connection
    release_again(connection)
    return connection


def _compare_clocks(membership: Membership) -> str:
    """Return what is wrong with this machine's clock, and say it; messages are dropped where clocks differ."""
    try:
        found = fetch_hub(membership.hub_url, verify=membership.verify)
    except (
        FedjobError
    ):  # the hub answered a moment ago; what is wrong with it now will be said by who needs it
        return ""
    text = clock_text(hub_ahead_s(found.time, found.asked, found.answered))
    if text:
        _log.warning("%s", text)
    return text


class _Default:
    """The holder of the connection that is used where none is given."""

    connection: Connection | None = None


_default = _Default()


def default_connection(home: str | Path | None = None) -> Connection:
    """Return the connection that was opened last, or open the home's."""
    if _default.connection is None or not _default.connection.endpoint.connected:
        return open_connection(Connection, home=home)
    return _default.connection
