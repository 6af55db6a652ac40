"""The clients at the gate of a hub's broker: strangers, of which the oldest make room, and those who were let in."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from fedjob.hub.config.limits import HubLimits


@dataclass(slots=True, eq=False)
class Visitor:
    """A client.

    Args:
        address: that limits count.
        party: that it is, once it was let in; empty before.
        broker_hash: of the password that it gave, as the ledger has it.
        ends: seconds since 1970, when what it showed does; None for never.
        leave: set where it has to go.
        why: it has to, for the log and for the client.
    """

    address: str
    party: str = ""
    broker_hash: str = ""
    ends: float | None = None
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""


class Visitors:
    """The clients that are there, within the hub's limits on their numbers."""

    def __init__(self, limits: HubLimits) -> None:
        self._limits = limits
        self._strangers: dict[Visitor, None] = {}  # the longest here first
        self._by_address: Counter[str] = Counter()
        self._members: set[Visitor] = set()
        self._by_party: Counter[str] = Counter()

    @property
    def members(self) -> tuple[Visitor, ...]:
        """Those who were let in."""
        return tuple(self._members)

    def enter(self, address: str) -> Visitor:
        """Take note of a new client; where there are too many strangers the oldest one of an address has to leave."""
        if self._by_address[address] >= self._limits.address_logins:
            self._show_out(address)
        elif len(self._strangers) >= self._limits.num_logins:
            self._show_out(max(self._by_address, key=self._by_address.__getitem__))
        visitor = Visitor(address)
        self._strangers[visitor] = None
        self._by_address[address] += 1
        return visitor

    def let_in(self, visitor: Visitor, party: str, broker_hash: str) -> str:
        """Make a stranger a member; return why not, empty where it was made one."""
        if self._by_party[party] >= self._limits.party_sessions:
            return (
                f"{party} has {self._limits.party_sessions} sessions open already: close one (party_sessions)"
            )
        if len(self._members) >= self._limits.num_sessions:
            return f"the hub carries {self._limits.num_sessions} sessions already (num_sessions)"
        self._forget_stranger(visitor)
        visitor.party, visitor.broker_hash = party, broker_hash
        self._members.add(visitor)
        self._by_party[party] += 1
        return ""

    def part(self, visitor: Visitor) -> None:
        """Forget a client that is gone."""
        self._forget_stranger(visitor)
        if visitor in self._members:
            self._members.discard(visitor)
            self._by_party[visitor.party] -= 1
            if not self._by_party[visitor.party]:
                del self._by_party[visitor.party]

    def _show_out(self, address: str) -> None:
        visitor = next((each for each in self._strangers if each.address == address), None)
        if visitor is not None:
            self._forget_stranger(visitor)
            visitor.why = f"made room for another client, after {address} had opened many connections"
            visitor.leave.set()

    def _forget_stranger(self, visitor: Visitor) -> None:
        if visitor not in self._strangers:
            return
        del self._strangers[visitor]
        self._by_address[visitor.address] -= 1
        if not self._by_address[visitor.address]:
            del self._by_address[visitor.address]
