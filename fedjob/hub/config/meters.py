"""Meters of what parties and addresses do at a hub, and the log of those that were refused."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from fedjob.messaging.token_bucket import TokenBucket

MAX_METERED = 20_000
"""Parties or addresses that one meter keeps; of more, the one that was quiet for longest is forgotten."""

LOG_EVERY_S = 60.0
"""Between two lines in the log about refusals of one kind."""

_IPV6_NETWORK = 64
"""Bits of an IPv6 address that name a network: whoever has one has all addresses of it."""

_log = logging.getLogger("fedjob.hub")


class Meter:
    """A rate for each of many parties or addresses.

    Args:
        per_s, at_once: of each of them.
        clock: returns seconds.
    """

    def __init__(self, per_s: float, at_once: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_s = per_s
        self.at_once = at_once
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def draw(self, whose: str, count: float = 1.0) -> float:
        """Count something done; return in how many seconds it would have been in time, 0 for now."""
        return self._bucket(whose).draw(self._clock(), count)

    def try_draw(self, whose: str, count: float = 1.0, *, patience_s: float = 0.0) -> float:
        """Do as `draw`, but count nothing that would have to wait for longer than `patience_s`: it is to be refused."""
        bucket, now = self._bucket(whose), self._clock()
        late_s = max(0.0, (count - bucket.level(now)) / self.per_s)
        if late_s <= patience_s:
            bucket.draw(now, count)
        return late_s

    def wait_s(self, whose: str) -> float:
        """Return in how many seconds one more thing would be in time, 0 for now."""
        return self._bucket(whose).wait_s(self._clock())

    def _bucket(self, whose: str) -> TokenBucket:
        bucket = self._buckets.get(whose)
        if bucket is None:
            bucket = TokenBucket(self.per_s, self.at_once, self.at_once, self._clock())
            self._buckets[whose] = bucket
            if len(self._buckets) > MAX_METERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(whose)
        return bucket


class Refusals:
    """The counts of what a hub refused, by kind, with a line in its log for the first of each kind in a minute.

    Args:
        clock: returns seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._logged: dict[str, tuple[float, int]] = {}

    def count(self, kind: str, sentence: str) -> None:
        """Count one refusal.

        Args:
            kind: one of a few words of the hub's own, never something that a client sent.
            sentence: for the log.
        """
        with self._lock:
            now, number = self._clock(), self._counts.get(kind, 0) + 1
            self._counts[kind] = number
            logged_at, logged = self._logged.get(kind, (now - LOG_EVERY_S, number - 1))
            if now - logged_at < LOG_EVERY_S:
                return
            self._logged[kind] = (now, number)
        more = number - logged - 1
        others = f" (and {more} others of this kind since the last line)" if more > 0 else ""
        _log.warning("refused, %s: %s%s", kind, sentence, others)

    @property
    def counts(self) -> dict[str, int]:
        """The number of refusals of each kind since the hub started."""
        with self._lock:
            return dict(self._counts)


def network_of(host: str) -> str:
    """Return the address that limits count: an IPv4 address itself, of an IPv6 address its network of 64 bits."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), _IPV6_NETWORK), strict=False))
    return str(address)
