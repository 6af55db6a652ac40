"""A researcher's connection to a federation: who is there, what data there is."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fedjob.common.config import load_config
from fedjob.common.endpoint import Endpoint
from fedjob.common.enrol import (
    Membership,
    fetch_parties,
)
from fedjob.common.errors import SpecError
from fedjob.common.identity import Identity
from fedjob.common.messages import Body, Found, Message, Ping, Pong, Search
from fedjob.common.outbox import CourierStore, MemoryStore
from fedjob.common.repository import open_repository
from fedjob.common.repository.base import Repository
from fedjob.common.roster import Roster
from fedjob.common.transport.mqtt import MqttTransport
from fedjob.common.types import Address, party_of
from fedjob.researcher.catalogue import DatasetHandle, NodeInfo, Table, dataset_from_wire
from fedjob.researcher.home import home_path
from fedjob.researcher.homejobs import HomeJobs
from fedjob.researcher.joining import join
from fedjob.researcher.knownnodes import FILE_NAME, KnownNodes
from fedjob.researcher.login import Login, Prompt, Proving
from fedjob.researcher.login import login as log_in
from fedjob.researcher.release import release_again
from fedjob.researcher.settings import ResearcherConfig

if TYPE_CHECKING:
    from fedjob.researcher.following import FollowedJob

_log = logging.getLogger("fedjob")

ASK_AGAIN_S = 0.7
"""After which a question without an answer is asked again."""

PRESENCE_GRACE_S = 0.5
"""How long a node that shows no presence is given to answer anyway."""


class Session(HomeJobs):
    """An open connection, used by one thread at a time.

    Args:
        home: the researcher's home folder.
    """

    def __init__(
        self,
        home: Path,
        membership: Membership,
        identity: Identity,
        endpoint: Endpoint,
        repository: Repository,
        roster: Roster,
        outbox: CourierStore,
    ) -> None:
        self.home = home
        self.membership = membership
        self.identity = identity
        self.endpoint = endpoint
        self.repository = repository
        self.roster = roster
        self.lock = threading.RLock()
        self.strict = load_config(ResearcherConfig, home).strict
        """Whether nodes that `known_nodes` does not name are refused."""
        self.prove: Callable[[], str] = Proving(home)
        """Returns what nodes' verifiers are shown beside the signature; see docs/identity.md."""
        self._outbox = outbox

    @property
    def party(self) -> str:
        """This researcher's id, the same every time this home is used."""
        return self.identity.party

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.membership.federation

    @property
    def repo(self) -> Repository:
        """The file repository."""
        return self.repository

    def unreceipted(self) -> set[str]:
        """Return the ids of messages whose receipts have not come."""
        return {outgoing.id for outgoing in self._outbox.outgoing()}

    def nodes(self, timeout_s: float = 3.0) -> Table[NodeInfo]:
        """Return every enrolled node and whether it answers."""
        self.roster.refresh()
        answers = self.ask(None, Ping(), timeout_s=timeout_s)
        infos = []
        for node in self.roster.parties("node"):
            message = answers.get(node)
            if message is None or not isinstance(message.body, Pong):
                infos.append(NodeInfo(id=node, online=False))
            else:
                pong = message.body
                infos.append(
                    NodeInfo(
                        id=node,
                        online=True,
                        version=pong.version,
                        num_datasets=pong.num_datasets,
                        busy=pong.busy,
                        free=pong.free,
                        ready=pong.ready,
                        last_task=pong.last_task,
                        versions=pong.versions,
                        workers=pong.workers,
                        contact=pong.contact,
                        labels=tuple(pong.labels),
                        projects=tuple(pong.projects),
                    )
                )
        return Table(infos, ("id", "online", "version", "num_datasets", "ready", "busy", "free"))

    def datasets(
        self,
        tags: Iterable[str] | None = None,
        name: str | None = None,
        timeout_s: float = 3.0,
        *,
        project: str = "",
    ) -> Table[DatasetHandle]:
        """Return the datasets that nodes offer.

        Args:
            tags: a dataset must have all of them.
            name: exact name of a dataset.
            project: only nodes that are enrolled in it answer; empty for all nodes.
        """
        if isinstance(tags, str):
            raise SpecError(f"tags is a list of strings: tags=[{tags!r}]")
        body = Search(tags=[str(tag) for tag in tags or ()], name=name or "", project=project)
        self.roster.refresh()
        answers = self.ask(None, body, timeout_s=timeout_s)
        handles = [
            dataset_from_wire(node, info, self)
            for node, message in sorted(answers.items())
            if isinstance(message.body, Found)
            for info in message.body.datasets
        ]
        return Table(handles, ("node", "name", "tags", "num_rows", "reader"))

    def ask(
        self, nodes: Sequence[str] | None, body: Body, *, timeout_s: float, **header: Any
    ) -> dict[str, Message]:
        """Send a question to nodes and return the answers that came in time.

        Args:
            nodes: None asks everybody, and does not wait for nodes that show no presence.
            timeout_s: after which silence is an answer too.
        """
        with self.lock:
            endpoint = self.endpoint
            ids: set[str] = set()
            started = again = time.monotonic()
            answers: dict[str, Message] = {}
            left = timeout_s
            while (
                left > 0
            ):  # once more when it is up: what came while this process stood still did come in time
                now = time.monotonic()
                left = started + timeout_s - now
                waited_for = set(self._expected(started) if nodes is None else nodes)
                if ids and waited_for <= answers.keys():
                    break
                if now >= again and left > 0:
                    # questions are not receipted: one may get lost, or come to a node that has yet to hear of us
                    again = now + ASK_AGAIN_S
                    to = [None] if nodes is None else [Address(n) for n in nodes if n not in answers]
                    ids |= {endpoint.send(address, body, **header) for address in to}
                messages = endpoint.receive(max(0.0, min(left, again - now, 0.1)))
                for message in messages:
                    if getattr(message.body, "of", None) in ids:
                        answers.setdefault(message.sender, message)
                endpoint.settle(messages)
            endpoint.withdraw(ids)
            return answers

    def ask_each(self, bodies: Mapping[str, Body], *, timeout_s: float, **header: Any) -> dict[str, Message]:
        """Send each node a question of its own, of a kind that is resent until it is receipted.

        Args:
            bodies: node -> what to ask.
            timeout_s: after which silence is an answer too.

        Returns:
            node -> its answer, for those that answered in time.
        """
        with self.lock:
            endpoint = self.endpoint
            ids = {
                endpoint.send(Address(party_of(node)), body, **header): node for node, body in bodies.items()
            }
            answers: dict[str, Message] = {}
            deadline = time.monotonic() + timeout_s
            left = timeout_s
            while len(answers) < len(ids) and left > 0:  # once more when it is up, as in `ask`
                left = deadline - time.monotonic()
                messages = endpoint.receive(max(0.0, min(left, 0.2)))
                for message in messages:
                    node = ids.get(getattr(message.body, "of", ""))
                    if node is not None and party_of(node) == message.sender:
                        answers[node] = message
                endpoint.settle(messages)
            endpoint.withdraw(ids)
            return answers

    def follow(self, job_id: str) -> FollowedJob:
        """Return another party's job that names this party among its watchers, to look at only.

        Raises:
            NotAllowed: it does not.
            NoSuchJob: nothing is shown of that job, or not any more.
            RepositoryUnreachable: the hub does not answer.
        """
        from fedjob.researcher.following import FollowedJob

        return FollowedJob(self, job_id)

    def login(
        self, issuer: str, client_id: str, *, tell: Callable[[Prompt], object], tls_ca: str = ""
    ) -> Login:
        """Log in at an OpenID provider, for nodes that want more than a signature; see `researcher/login.py`.

        Args:
            tell: is given what the person has to do, such as `print`.
        """
        return log_in(self.home, self.identity, issuer=issuer, client_id=client_id, tell=tell, tls_ca=tls_ca)

    def meet(self, nodes: Iterable[str]) -> None:
        """Hold the keys of nodes that a job uses against those that this home knows; see `knownnodes`.

        Raises:
            NotPermitted: a node has another key than before, or is new and this home is strict.
        """
        parties = dict.fromkeys(party_of(node) for node in nodes)
        keys = {node: key for node in parties if (key := self.roster.key_of(node)) is not None}
        new = KnownNodes(self.home).meet(keys, strict=self.strict)
        self.roster.pin(keys)
        if new:
            _log.info("new nodes, whose keys are trusted from now on (%s): %s", FILE_NAME, ", ".join(new))

    def _expected(self, started: float) -> list[str]:
        presence = self.endpoint.presence()
        unknown_counts = time.monotonic() - started < PRESENCE_GRACE_S
        return [node for node in self.roster.parties("node") if presence.get(node, unknown_counts)]

    def close(self) -> None:
        """Leave the federation's broker and repository."""
        self.endpoint.stop()
        self.repository.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session of {self.party} with {self.membership.hub_url}>"


def connect(
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
) -> Session:
    """Connect to a federation and make this the default session.

    Args:
        hub: URL of the hub's repository; None for the one that the home belongs to.
        home: the researcher's home; None for `$FEDJOB_HOME`, then `~/.fedjob/researcher`.
        id: this researcher's id, when the home is new; None takes one from the machine's name.
        invite: an invitation file, where the hub is not on this machine.
        tls_ca: certificate of the hub's own authority, when the home is new.
        broker: URL of the MQTT broker, where it is not reached as the hub says, such as through a tunnel.
        repo: the same for the file repository.
        key: file with a key to use, when the home is new; None makes one.
        strict: refuse nodes that the home's `known_nodes` does not name; None for the home's setting.
        timeout_s: to reach hub and broker.

    Raises:
        ConfigError: the home belongs to another federation, or to none and no hub is given.
        RepositoryUnreachable, BrokerUnreachable: nobody answers there.
        NotPermitted: the hub does not take this party.
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
    session = Session(folder, membership, identity, endpoint, repository, roster, outbox)
    session.strict = session.strict if strict is None else strict
    _default.session = session
    release_again(session)
    return session


class _Default:
    """The session that is used where none is given."""

    session: Session | None = None


_default = _Default()


def default_session(home: str | Path | None = None) -> Session:
    """Return the last session that was connected, or connect the home's."""
    if _default.session is None or not _default.session.endpoint.connected:
        return connect(home=home)
    return _default.session
