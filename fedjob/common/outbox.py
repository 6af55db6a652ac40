"""What a party owes the others: messages on their way, and ids that it has taken.

Only reliable messages live here. `MemoryStore` is enough for a process that may
forget; a node keeps the same in its SQLite file, inside its own transactions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedjob.common.messages import Message
from fedjob.common.types import Address

MAX_SEEN = 100_000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, encoded but not signed: each transmission is signed afresh.

    Args:
        to: None for everybody.
        payload: the exact bytes that get signed.
        expires: seconds since 1970; it is given up then.
        reliable: resent until the receipt; else sent once.
        kind: of its body, for counting; not kept.
    """

    id: str
    to: Address | None
    payload: bytes
    expires: float
    reliable: bool = True
    job: str = ""
    task: str = ""
    kind: str = "message"


class CourierStore(ABC):
    """Where an outbox and a window of seen ids survive; called from the endpoint's thread only."""

    @abstractmethod
    def add(self, outgoing: Outgoing) -> None:
        """Keep a message until it is dropped; adding it again changes nothing."""

    @abstractmethod
    def outgoing(self) -> list[Outgoing]:
        """Return what is kept, in the order of adding."""

    @abstractmethod
    def drop(self, ids: Iterable[str]) -> None:
        """Forget messages: receipted, given up or withdrawn; unknown ids are nothing to drop."""

    @abstractmethod
    def mark_seen(self, entries: Mapping[str, float]) -> None:
        """Remember `{seen_key: expires}`. Expired ones may go, and the oldest beyond a limit."""

    @abstractmethod
    def seen(self, key: str) -> bool:
        """Tell whether a message was taken before."""


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
    """Return what a message is remembered by: one sender can't use up another's ids."""
    return f"{message.sender}/{message.id}"
