"""A broker in this process, for tests and for simulated federations."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fedjob.common.errors import BrokerUnreachable
from fedjob.common.types import Address
from fedjob.messaging.transport.base import DAEMON, OnConnection, OnFrame, Transport

Fate = Callable[[str, "Address | None", bytes], int]
"""A function that returns how many copies of a frame (sender, addressee, frame) arrive: normally 1, 0 for a loss."""


class MemoryBroker:
    """Passes frames between the transports of one process, on the sender's thread.

    Args:
        fate: decides for each frame, so that tests can lose or double it.
    """

    def __init__(self, fate: Fate | None = None) -> None:
        self._lock = threading.Lock()
        self._members: dict[Address, MemoryTransport] = {}
        self._presence: dict[str, bool] = {}
        self.fate = fate
        self.up = True

    def stop(self) -> None:
        """Break every connection; `start` brings them back."""
        self.up = False
        self._report_connection(False)

    def start(self) -> None:
        """Let every member connect again."""
        self.up = True
        self._report_connection(True)

    def show(self, party: str, *, present: bool) -> None:
        """Show a presence that need not be true, as a last will that comes late does."""
        with self._lock:
            self._presence[party] = present

    def _report_connection(self, up: bool) -> None:
        with self._lock:
            members = list(self._members.values())
        for member in members:
            member._connection(up)

    def _join(self, member: MemoryTransport) -> None:
        with self._lock:
            self._members[member.address] = member
            if member.address.session == DAEMON:
                self._presence[member.address.party] = True

    def _leave(self, member: MemoryTransport) -> None:
        with self._lock:
            if self._members.get(member.address) is member:
                del self._members[member.address]
                if member.address.session == DAEMON:
                    self._presence[member.address.party] = False

    def _pass(self, sender: str, to: Address | None, frame: bytes) -> bool:
        if not self.up:
            return False
        with self._lock:
            if to is None:
                receivers = [m for a, m in self._members.items() if a.session == DAEMON]
            else:
                receivers = [m for a, m in self._members.items() if a == to]
        copies = 1 if self.fate is None else self.fate(sender, to, frame)
        for member in receivers * copies:
            member._frame(sender, frame)
        return True


class MemoryTransport(Transport):
    """A session on a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, address: Address) -> None:
        self.address = address
        self._broker = broker
        self._on_frame: OnFrame | None = None
        self._on_connection: OnConnection | None = None

    def open(self, on_frame: OnFrame, *, timeout_s: float, on_connection: OnConnection | None = None) -> None:
        if not self._broker.up:
            raise BrokerUnreachable("the broker in memory is stopped: start it")
        self._on_frame, self._on_connection = on_frame, on_connection
        self._broker._join(self)
        if on_connection is not None:
            on_connection(True)

    def send(self, to: Address | None, frame: bytes) -> bool:
        return self._on_frame is not None and self._broker._pass(self.address.party, to, frame)

    def connected(self) -> bool:
        return self._on_frame is not None and self._broker.up

    def presence(self) -> dict[str, bool]:
        with self._broker._lock:
            return dict(self._broker._presence)

    def close(self) -> None:
        self._broker._leave(self)
        self._on_frame = None

    def _frame(self, sender: str, frame: bytes) -> None:
        on_frame = self._on_frame
        if on_frame is not None:
            on_frame(sender, frame)

    def _connection(self, up: bool) -> None:
        if self._on_connection is not None:
            self._on_connection(up)
