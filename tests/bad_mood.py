"""What one stranger or one party in a bad mood does to a hub, and what an honest party notices of it meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.exceptions import InvalidHandshake

from tests.bare_mqtt import SUBACK, BareClient, connect, publish, subscribe

PUBLISHED = 3


@dataclass
class Honest:
    """A party that does the same small thing again and again, and measures how long each time takes.

    Args:
        work: the thing.
        pause_s: between two times.
    """

    work: Callable[[], None]
    pause_s: float = 0.02
    took_s: list[float] = field(default_factory=list)
    failed: BaseException | None = None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Honest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self.work()
                self.took_s.append(time.monotonic() - began)
                self._stop.wait(self.pause_s)
        except BaseException as error:
            self.failed = error

    def summary(self) -> tuple[float, float]:
        """Return the median and the largest time, in seconds."""
        if self.failed is not None:
            raise self.failed
        times = sorted(self.took_s)
        return times[len(times) // 2], times[-1]


def messenger(client: BareClient, party: str, session: str) -> Callable[[], None]:
    """Return a thing to do: send a message to oneself, and wait until it has come."""
    client.send(subscribe(f"fedjob/1/to/{party}/{session}/#"))
    client.until(SUBACK)
    number = 0

    def work() -> None:
        nonlocal number
        number += 1
        mark = b"honest %d" % number
        client.send(publish(f"fedjob/1/to/{party}/{session}/from/{party}", mark))
        while not client.until(PUBLISHED).endswith(mark):
            pass

    return work


Dial = Callable[[], BareClient]


def idle(dial: Dial, count: int) -> list[BareClient]:
    """Open connections and say nothing; those that the hub closes meanwhile stay in the list."""
    held = []
    for _ in range(count):
        with suppress(OSError, InvalidHandshake, EOFError, TimeoutError):
            held.append(dial())
    return held


def flood(client: BareClient, party: str, to: str, count: int, *, within_s: float) -> int:
    """Send messages as fast as the hub takes them; return how many it took in time."""
    block = publish(f"fedjob/1/to/{to}/main/from/{party}", b"x" * 200) * 20
    ended = threading.Timer(within_s, client.socket.shutdown, (socket.SHUT_RDWR,))  # it may wait in `send`
    ended.daemon = True
    ended.start()
    sent = 0
    client.socket.settimeout(None)
    with suppress(OSError):
        while sent < count:
            client.send(block)
            sent += 20
    ended.cancel()
    return sent


def log_in_often(dial: Dial, party: str, password: str, count: int, *, within_s: float) -> tuple[int, int]:
    """Log in again and again, and stay; return how many logins were sent and how many were let in."""
    held: list[BareClient] = []
    sent = let_in = 0
    until = time.monotonic() + within_s
    while sent < count and time.monotonic() < until:
        sent += 1
        with suppress(OSError, InvalidHandshake, EOFError, TimeoutError):
            held.append(dial())
            let_in += held[-1].login(connect(party, password)).code == 0
        if len(held) > 200:
            held.pop(0).close()
    for client in held:
        client.close()
    return sent, let_in
