"""Nodes that say what a test tells them to: real endpoints, real messages, nothing behind them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership
from fedjob.identity.party_list import Party
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import (
    Answer,
    Body,
    Event,
    Found,
    Message,
    Offer,
    Ping,
    Pong,
    Result,
    Search,
    Task,
)
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.base import Transport
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport
from fedjob.repository.memory import MemoryRepository
from fedjob.researcher.jobs.session import Session

Say = Callable[[Offer], dict[str, Any]]


class ScriptedNode:
    """A party that answers searches, pings and offers, and refuses every task unless it is told how to answer.

    Args:
        says: fields of the answer to an offer, or a function that returns them; None keeps silent.
        pong: further fields of its answers to pings.
        columns: of its dataset.
        events: type and data of what it tells of every task, before it refuses it.
        works: returns its answer to a task.
        finds: returns the datasets of its answer to a search.
    """

    def __init__(
        self,
        federation: Any,
        name: str,
        says: dict[str, Any] | Say | None = None,
        *,
        pong: dict[str, Any] | None = None,
        columns: list[dict[str, str]] | None = None,
        events: list[tuple[str, dict[str, Any]]] | None = None,
        works: Callable[[Message, Task], Result] | None = None,
        finds: Callable[[Search], list[dict[str, Any]]] | None = None,
    ) -> None:
        self.name = name
        self.says = {"status": "not-needed"} if says is None else says
        self.silent = False
        self.pong = {"workers": 1, **(pong or {})}
        self.columns = columns or []
        self.events = [("lease", {"status": "running"}), *(events or [])]
        self.works = works
        self.finds = finds
        self.heard: list[Message] = []
        self._federation = federation
        self._identity = Identity.generate(name)
        federation.parties[name] = Party(name, "node", self._identity.public_key_hex)
        self._stop = threading.Event()
        self._endpoint: Endpoint | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> ScriptedNode:
        self._stop.clear()
        self._endpoint = Endpoint(
            self._identity,
            self._federation.name,
            Roster(self._federation.parties, self._federation.refresh),
            self._federation.transport(Address(self.name)),
            MemoryStore(),
            "node",
        )
        self._endpoint.start(5)
        self._thread = threading.Thread(target=self._run, args=(self._endpoint,), name=self.name)
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread is not None and self._endpoint is not None:
            self._stop.set()
            self._endpoint.wake()
            self._thread.join(10)
            self._endpoint.stop()
            self._thread = self._endpoint = None

    def heard_of(self, kind: type[Body]) -> list[Any]:
        """Return the bodies of that kind that came here."""
        return [message.body for message in list(self.heard) if isinstance(message.body, kind)]

    def decide(self, **fields: Any) -> None:
        """Answer every offer that was not dry anew, as a node does when its owner decides."""
        self.says = fields
        assert self._endpoint is not None
        for message in list(self.heard):
            if isinstance(message.body, Offer) and not message.body.dry:
                self._answer(self._endpoint, message, Answer(of=message.id, **fields))

    def _run(self, endpoint: Endpoint) -> None:
        while not self._stop.is_set():
            messages = endpoint.receive(0.2)
            self.heard += messages
            if self.silent:
                continue
            for message in messages:
                if isinstance(message.body, Task):
                    self._tell(endpoint, message)
                body = self._say(message)
                if body is not None:
                    self._answer(endpoint, message, body)
            endpoint.settle(messages)

    def _tell(self, endpoint: Endpoint, message: Message) -> None:
        for type_, data in self.events:
            endpoint.send(
                parse_address(message.reply_to),
                Event(type=type_, data=data),
                job=message.job,
                task=message.task,
                round=message.round,
            )

    def _answer(self, endpoint: Endpoint, message: Message, body: Body) -> None:
        endpoint.send(parse_address(message.reply_to), body, job=message.job)

    def _say(self, message: Message) -> Body | None:
        match message.body:
            case Ping():
                return Pong(of=message.id, **self.pong)
            case Search() as search:
                if search.project and search.project not in self.pong.get("projects", ()):
                    return Found(of=message.id)
                if self.finds is not None:
                    return Found(of=message.id, datasets=self.finds(search))
                toy = {"name": "toy", "tags": ["toy"], "reader": "npz", "num_rows": 20}
                return Found(of=message.id, datasets=[{**toy, "columns": self.columns}])
            case Offer() as offer:
                fields = self.says(offer) if callable(self.says) else self.says
                return Answer(of=message.id, **fields)
            case Task() as task if self.works is not None:
                return self.works(message, task)
            case Task():
                return Result(of=message.id, key=message.task, ok=False, reason="scripted")
            case _:
                return None


class Field:
    """A broker and a repository in memory, scripted nodes and researchers."""

    name = "field"

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.repository = MemoryRepository()
        self.parties: dict[str, Party] = {}
        self.nodes: dict[str, ScriptedNode] = {}
        self._sessions: list[Session] = []

    def transport(self, address: Address) -> Transport:
        return MemoryTransport(self.broker, address)

    def refresh(self) -> dict[str, Party]:
        return self.parties

    def node(self, name: str, says: dict[str, Any] | Say | None = None, **more: Any) -> ScriptedNode:
        """Start a node."""
        self.nodes[name] = ScriptedNode(self, name, says, **more)
        return self.nodes[name].start()

    def session(self, home: Path, party: str = "lab", **settings: float | str) -> Session:
        """Open a researcher's session; `settings` go into the home's config.toml."""
        home.mkdir(exist_ok=True)
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        (home / "config.toml").write_text("".join(lines))
        session = open_session(self, home, Identity.load_or_create(home / "keys", party))
        self._sessions.append(session)
        return session

    def close(self) -> None:
        for node in self.nodes.values():
            node.stop()
        for session in self._sessions:
            session.close()


def open_session(federation: Any, home: Path, identity: Identity) -> Session:
    """Return a researcher's session without hub or broker."""
    federation.parties[identity.party] = Party(identity.party, "researcher", identity.public_key_hex)
    address = Address(identity.party, secrets.token_hex(4))
    roster, outbox = Roster(federation.parties, federation.refresh), MemoryStore()
    endpoint = Endpoint(
        identity, federation.name, roster, federation.transport(address), outbox, "researcher"
    )
    endpoint.start(5)
    member = Membership("memory://", federation.name, identity.party, "researcher", "0" * 64, "memory://", "")
    home.mkdir(exist_ok=True)
    return Session(home, member, identity, endpoint, federation.repository, roster, outbox)
