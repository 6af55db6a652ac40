"""Connections of the HTTP client on lines that are slow, or that forget what was idle.

A connection that was idle for `REUSE_S` is not used again: boxes on the way (firewalls, address translators, proxies)
forget it without a word to either end, often after a minute, and a request on it would be answered by nobody. An upload
may take as long as its bytes go on leaving this machine: what has been handed to the system, megabytes on Linux, is on
the line for minutes where that carries 256 kbit/s, and only then the server can begin to answer.
"""

from __future__ import annotations

import array
import fcntl
import select
import sys
import time
from typing import Any

import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

REUSE_S = 25.0
"""Below what boxes on the way keep an idle connection for, which is a minute and more."""

LOOK_S = 0.5

_UNSENT = 0x5411
"""Linux's SIOCOUTQ: the bytes of a socket that the other side has not acknowledged."""


class _OnTheLine:
    """What the connections below add to those of urllib3."""

    _used_at = 0.0
    timeout: Any
    sock: Any

    def request(self, *args: Any, **how: Any) -> Any:
        self._used_at = time.monotonic()
        return super().request(*args, **how)  # type: ignore[misc]

    def getresponse(self) -> Any:
        if isinstance(self.timeout, (int, float)) and self.sock is not None:
            wait_for_departure(self.sock, silence_s=float(self.timeout))
        found = super().getresponse()  # type: ignore[misc]
        self._used_at = time.monotonic()
        return found

    @property
    def is_connected(self) -> bool:
        """False as well if the connection was idle for too long to be relied on."""
        lasting = time.monotonic() - self._used_at < REUSE_S
        return lasting and bool(super().is_connected)  # type: ignore[misc]


class _PlainConnection(_OnTheLine, HTTPConnection):
    pass


class _TlsConnection(_OnTheLine, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class LineAdapter(requests.adapters.HTTPAdapter):
    """The adapter of requests with these connections, directly and through a proxy."""

    def init_poolmanager(self, *args: Any, **how: Any) -> None:
        super().init_poolmanager(*args, **how)
        _use_here(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **how: Any) -> Any:
        found = super().proxy_manager_for(*args, **how)
        _use_here(found)
        return found


def _use_here(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}


def wait_for_departure(sock: Any, *, silence_s: float) -> None:
    """Return once the other side has acknowledged all that was sent, has answered, or nothing goes on any more.

    Args:
        sock: a socket, perhaps in TLS.
        silence_s: without a byte acknowledged, after which it returns too: reading will then be late.
    """
    left = unsent_bytes(sock)
    until = time.monotonic() + silence_s
    while left and time.monotonic() < until:
        if select.select([sock], [], [], LOOK_S)[0]:
            return
        now_left = unsent_bytes(sock)
        if now_left != left:
            left, until = now_left, time.monotonic() + silence_s


def unsent_bytes(sock: Any) -> int:
    """Return how many bytes the other side has not acknowledged; 0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    found = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), _UNSENT, found)
    except (OSError, ValueError):
        return 0
    return found[0]
