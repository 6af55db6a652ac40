"""The limits on requests: of each party, of each address of strangers, and how many are answered at the same time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.requests import HTTPConnection

from fedjob.common.errors import FedjobError, SpecError
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Meter, Refusals, network_of
from fedjob.hub.storage.parties import Member

MAX_WAITING = 256
"""Requests of one party that wait for their turn; more are refused."""

READERS_A_REQUEST = 50
"""Readers that may be named with an object for the price of one more request: each is a row in the ledger."""

_ONCE = (
    "authorization",
    "content-length",
    "host",
    "origin",
    "range",
    "x-fedjob-job",
    "x-fedjob-readers",
)
"""Headers of which a second one would mean something else to a proxy than to the hub."""


class TooMany(FedjobError):
    """A party or an address sends more requests than the hub's limits allow.

    Args:
        after_s: seconds after which to try again.
    """

    reason = "too_many_requests"

    def __init__(self, sentence: str, after_s: float) -> None:
        super().__init__(sentence)
        self.after_s = math.ceil(max(1.0, after_s))


class RequestLimits:
    """The requests that are being answered, and the rates at which they came."""

    def __init__(self, limits: HubLimits, refusals: Refusals) -> None:
        self._limits = limits
        self._refusals = refusals
        self._parties = Meter(limits.requests_per_s, limits.requests_at_once)
        self._strangers = Meter(limits.stranger_requests_per_s, limits.stranger_requests_at_once)
        self._wrong = Meter(limits.refusals_per_s, limits.refusals_at_once)
        self._turns: dict[str, _Turns] = {}

    @asynccontextmanager
    async def turn(self, member: Member | None, address: str, num_readers: int) -> AsyncIterator[None]:
        """Wait for the turn of a request, and hold it.

        Args:
            member: that sent it; None for a stranger.
            address: it came from, as limits count it.
            num_readers: that it names.

        Raises:
            TooMany: it has to come again later.
        """
        if member is None:
            self._check_stranger(address)
            yield
            return
        late_s = self._parties.try_draw(
            member.party, 1.0 + num_readers / READERS_A_REQUEST, patience_s=self._limits.patience_s
        )
        if late_s > self._limits.patience_s:
            rate = self._limits.requests_per_s
            self._refuse(
                "requests",
                f"{member.party} sends more than {rate:g} requests a second (requests_per_s)",
                late_s,
            )
        turns = self._turns.setdefault(member.party, _Turns(self._limits.party_requests))
        if turns.num_waiting >= MAX_WAITING:
            number = self._limits.party_requests
            self._refuse(
                "requests at once",
                f"{member.party} has {number} requests being answered and {MAX_WAITING} waiting (party_requests)",
                1.0,
            )
        try:
            async with turns:
                if late_s > 0:
                    await asyncio.sleep(late_s)
                yield
        finally:
            if turns.is_idle:
                self._turns.pop(member.party, None)

    def wrong(self, address: str, what: str) -> None:
        """Count a wrong token or invitation of a stranger.

        Raises:
            TooMany: there were too many from that address.
        """
        late_s = self._wrong.try_draw(address)
        self._refusals.count(what, f"from {address}")
        if late_s:
            self._refuse(
                "guesses",
                f"too many wrong tokens and invitations came from {address}: check yours, and try again later "
                "(refusals_per_s)",
                late_s,
            )

    def _check_stranger(self, address: str) -> None:
        late_s = max(self._strangers.try_draw(address), self._wrong.wait_s(address))
        if late_s:
            rate = self._limits.stranger_requests_per_s
            self._refuse(
                "strangers' requests",
                f"more than {rate:g} requests a second without a party's token come from {address}, or too many wrong "
                "ones (stranger_requests_per_s, refusals_per_s)",
                late_s,
            )

    def _refuse(self, kind: str, sentence: str, after_s: float) -> None:
        self._refusals.count(kind, sentence)
        refused = TooMany(sentence, after_s)
        raise TooMany(f"{sentence}; try again in {refused.after_s} s", after_s)


class _Turns:
    """The requests of one party that are being answered, and those that wait."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._places = asyncio.Semaphore(number)
        self._num_inside = 0
        self.num_waiting = 0

    @property
    def is_idle(self) -> bool:
        return not self.num_waiting and not self._num_inside

    async def __aenter__(self) -> None:
        self.num_waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.num_waiting -= 1
        self._num_inside += 1

    async def __aexit__(self, *_: object) -> None:
        self._num_inside -= 1
        self._places.release()


def address_of(connection: HTTPConnection, proxies: Iterable[str] = ()) -> str:
    """Return the address that limits count for a request.

    Args:
        proxies: addresses of web servers before the hub, which name the client's in X-Forwarded-For.
    """
    host = connection.client.host if connection.client is not None else ""
    if host in proxies:
        forwarded = connection.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        host = forwarded or host
    return network_of(host)


def check_once(connection: HTTPConnection) -> None:
    """Refuse a request with two of a header that can mean one thing only.

    Raises:
        SpecError: it has two.
    """
    names = [name for name, _ in connection.headers.raw]
    for name in _ONCE:
        if names.count(name.encode()) > 1:
            raise SpecError(f"expected at most one header {name}, found several")
