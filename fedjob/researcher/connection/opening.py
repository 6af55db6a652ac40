"""The opening of a connection to a federation, and the connection that is used where none is given."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import ClassVar, TypeVar

from fedjob.common.errors import BrokerUnreachable, FedjobError, RepositoryUnreachable
from fedjob.common.types import Address
from fedjob.identity.client_certificate import ClientCertificate
from fedjob.identity.membership import MEMBERSHIP_NAME, Membership, check_repository_for, hub_of
from fedjob.identity.pinned_roster import open_roster
from fedjob.messaging.clock import clock_text, hub_ahead_s
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.mqtt import transport_of
from fedjob.repository import Repository, open_repository
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.end_messages import release_again
from fedjob.researcher.connection.home import home_path, take_home
from fedjob.researcher.connection.joining import join, known_membership

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
    own: ClientCertificate | None = None,
    proxy: str | None = None,
    broker: str | None = None,
    repo: str | None = None,
    key: str | Path | None = None,
    strict: bool | None = None,
    timeout_s: float = 10.0,
    is_default: bool = True,
) -> C:
    """Connect to a federation, and make this the default connection.

    Nodes that have not received the end of a job are sent it once more. While the hub is away, a home that has
    joined a federation before is opened all the same, if no address is given: its jobs lie there. Whatever needs
    the hub connects then, or raises what connecting raised.

    Args:
        kind: the class of what is returned; for the other arguments and for what is raised see `session.connect`.
        is_default: False leaves the default connection as it is.
    """
    folder = home_path(home)
    take_home(folder)
    may_wait = hub is None and broker is None and repo is None and (folder / MEMBERSHIP_NAME).exists()
    known = _KnownMembership(
        folder, may_wait, hub=hub, id=id, invite=invite, tls_ca=tls_ca, proxy=proxy, key=key, own=own
    )
    membership, roster, away = known.membership, known.roster, known.away
    transport = transport_of(membership, Address(membership.party, secrets.token_hex(8)), broker or "")
    outbox = MemoryStore()
    endpoint = Endpoint(known.identity, membership.federation, roster, transport, outbox, "researcher")
    repository = _repository_of(membership, repo or membership.hub_url)

    def start() -> None:
        """Reach the hub: its list of parties, then its broker."""
        if away is not None:
            roster.reach()
        endpoint.start(timeout_s)
        roster.follow(membership.party)
        connection.clock = _compare_clocks(membership)
        release_again(connection)

    connection = kind(folder, membership, known.identity, endpoint, repository, roster, outbox, start=start)
    connection.strict = connection.strict if strict is None else strict
    try:
        if away is None:
            connection.reach()
    except BrokerUnreachable as error:
        if not may_wait:
            repository.close()
            raise
        away = error
    except BaseException:
        repository.close()
        raise
    if away is not None:
        _log.warning("the jobs of %s can be looked at, but its hub is away: %s", folder, away)
    if is_default:
        _default.connection = connection
    return connection


def _repository_of(membership: Membership, url: str) -> Repository:
    return open_repository(
        check_repository_for(membership.hub_url, url),
        token=membership.token,
        verify=membership.verify,
        proxy=membership.proxy,
        credentials=membership.credentials,
    )


def _compare_clocks(membership: Membership) -> str:
    """Return what is wrong with this machine's clock, and say it; messages are dropped where clocks differ."""
    try:
        found = hub_of(membership)
    except FedjobError:
        return ""  # the hub answered a moment ago; what is wrong with it now is said by whoever needs it
    text = clock_text(hub_ahead_s(found.time, found.asked, found.answered))
    if text:
        _log.warning("%s", text)
    return text


class _KnownMembership:
    """What is known of a home's place in its federation: from the hub, or while it is away from the home alone.

    Args:
        may_wait: the home has joined a federation, and may be opened while its hub is away.
    """

    def __init__(
        self,
        folder: Path,
        may_wait: bool,
        *,
        hub: str | None,
        id: str | None,
        invite: str | Path | None,
        tls_ca: str | Path | None,
        proxy: str | None,
        key: str | Path | None,
        own: ClientCertificate | None,
    ) -> None:
        self.away: FedjobError | None = None
        try:
            self.membership, self.identity = join(
                folder, hub=hub, id=id, invite=invite, tls_ca=tls_ca, proxy=proxy, key=key, own=own
            )
            self.roster = open_roster(folder, self.membership)
        except RepositoryUnreachable as error:
            if not may_wait:
                raise
            self.away = error
            self.membership, self.identity = known_membership(folder, id=id, key=key)
            self.roster = open_roster(folder, self.membership, ask=False)


class _Default:
    """The connection that is used where none is given, and those of other homes that jobs named."""

    connection: Connection | None = None
    others: ClassVar[dict[Path, Connection]] = {}


_default = _Default()


def default_home() -> Path | None:
    """Return the home of the connection that was opened last and not closed; None for none."""
    connection = _default.connection
    return None if connection is None or connection.closed else connection.home


def default_connection(home: Path | None = None) -> Connection:
    """Return a connection that stands.

    Args:
        home: None for that of the connection that was opened last, then the default one. Another home's connection
            does not become the default one.
    """
    first = _default.connection
    wanted = home or default_home() or home_path(None)
    for found in (first, _default.others.get(wanted)):
        if found is not None and not found.closed and found.home == wanted:
            found.reach()
            return found
    opened = open_connection(Connection, home=wanted)
    opened.reach()
    if first is not None and not first.closed and first.home != wanted:
        _default.others[wanted], _default.connection = opened, first
    return opened
