"""The store of a party's outgoing messages, and of the ids of messages that it has received.

Only reliable messages are stored. `MemoryStore` is enough for a process that may
forget them; a node stores the same in its SQLite file, inside its own transactions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedjob.common.types import Address
from fedjob.messaging.messages import Message

MAX_SEEN = 100_000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, encoded but not signed: each transmission is signed afresh.

    Args:
        to: None for everybody.
        payload: the exact bytes that get signed.
        expires: seconds since 1970, when it is no longer sent.
        reliable: whether it is resent until its receipt; else it is sent once.
        kind: of its body, for counting; not stored.
        attached_bytes: of parameters in it, for counting; not stored.
    """

    id: str
    to: Address | None
    payload: bytes
    expires: float
    reliable: bool = True
    job: str = ""
    task: str = ""
    kind: str = "message"
    attached_bytes: int = 0


class CourierStore(ABC):
    """The store of outgoing messages and of received ids; it is called from the endpoint's thread only."""

    @abstractmethod
    def add(self, outgoing: Outgoing) -> None:
        """Store a message until it is dropped; adding it again changes nothing."""

    @abstractmethod
    def outgoing(self) -> list[Outgoing]:
        """Return the stored messages, in the order of adding."""

    @abstractmethod
    def drop(self, ids: Iterable[str]) -> None:
        """Delete messages that were receipted, expired or withdrawn; unknown ids are ignored."""

    @abstractmethod
    def mark_seen(self, entries: Mapping[str, float]) -> None:
        """Remember `{seen_key: expires}`. Expired keys may be forgotten, and the oldest beyond a limit."""

    @abstractmethod
    def seen(self, key: str) -> bool:
        """Return whether a message with this key was received before."""


class MemoryStore(CourierStore):
    """A store that ends with its process."""

    def __init__(self) -> None:
        self._outgoing: dict[str, Outgoing] = {}
        self._seen: dict[str, float] = {}

    def add(self, outgoing: Outgoing) -> None:
        self._outgoing.setdefault(outgoing.id, outgoing)

    def outgoing(self) -> list[Outgoing]:
        return list(self._outgoing.values())

    def drop(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._outgoing.pop(id_, None)

    def mark_seen(self, entries: Mapping[str, float]) -> None:
        self._seen.update(entries)
        while len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def seen(self, key: str) -> bool:
        return key in self._seen


def seen_key(message: Message) -> str:
    """Return the key of a message for `mark_seen`; with the sender in it, two senders' ids can't collide."""
    return f"{message.sender}/{message.id}"
