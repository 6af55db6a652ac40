"""The requests of parties that are being answered: one may take hours, and ends when its party is revoked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from fedjob.hub.storage.parties import Member


class RunningRequests:
    """The requests under way, by the parties that sent them."""

    def __init__(self) -> None:
        self._aborts: defaultdict[Member, list[Callable[[], Any]]] = defaultdict(list)

    @contextmanager
    def of(self, member: Member | None, abort: Callable[[], Any] | None) -> Iterator[None]:
        """Count a request as long as it is answered.

        Args:
            member: as it was when the request came; None for a stranger, whose requests are short.
            abort: drops the connection.
        """
        if member is None or abort is None:
            yield
            return
        self._aborts[member].append(abort)
        try:
            yield
        finally:
            self._aborts[member].remove(abort)
            if not self._aborts[member]:
                del self._aborts[member]

    def end_revoked(self, members: Collection[Member]) -> int:
        """Drop the connections of requests whose senders are revoked by now, or enrolled anew; return how many.

        Args:
            members: all parties as they are now.
        """
        now = {(member.party, member.broker_hash) for member in members if not member.revoked}
        gone = [each for each in self._aborts if (each.party, each.broker_hash) not in now]
        aborts = [abort for member in gone for abort in self._aborts[member]]
        for abort in aborts:
            abort()
        return len(aborts)
