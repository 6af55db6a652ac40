"""A line to the internet: slow, far, with outages, with boxes that forget idle connections, and with faults of TCP.

It carries bytes to one server. All connections share its two directions, `up` (from the client) and `down`, as those
of a hospital share its line.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from tests.faults.script import TCP_FAULTS, Fault, Script
from tests.faults.serving import LoopThread, Server, Stream, both, connect

QUEUED_S = 0.5
"""Bytes that are on the way in the line: a sender waits for more room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProperties:
    """The properties of a line.

    Args:
        bits_per_s: in each direction; 0 for no limit.
        delay_s: on the way, in each direction.
        jitter_s: at most, on top of it.
        idle_s: after which a box on the way forgets a connection, and carries nothing of it any more; 0 for never.
        outage_s, every_s: length of the outages and from the start of one to that of the next; 0 for none. A
            connection that stands meanwhile carries its bytes afterwards, as TCP does; none comes about.
        until_outage_s: from the start of the line to its first outage.
    """

    bits_per_s: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    idle_s: float = 0.0
    outage_s: float = 0.0
    every_s: float = 0.0
    until_outage_s: float = 0.0

    def outage_ends(self, now: float) -> float:
        """Return for how long the outage goes on; 0 where there is none.

        Args:
            now: seconds since the start of the line.
        """
        if not self.every_s or now < self.until_outage_s:
            return 0.0
        return max(0.0, self.outage_s - (now - self.until_outage_s) % self.every_s)


@dataclass(slots=True)
class _Connection:
    """A connection over a line.

    Args:
        script: that `fault` was drawn from; a line that has another one by now draws anew for what stands.
        fault: that strikes it once `left` more bytes have passed.
        silent: nothing passes any more.
    """

    client: Stream
    server: Stream
    script: Script
    fault: Fault | None
    left: int
    heard: float
    silent: bool = False


@dataclass(slots=True)
class _Direction:
    free_at: float = 0.0
    num_bytes: int = 0
    latest: dict[int, float] = field(default_factory=dict)


class FaultyLine(Server):
    """A line to a server.

    Args:
        port, host: of the server.
    """

    def __init__(self, thread: LoopThread, port: int, host: str = "127.0.0.1") -> None:
        self._to = host, port
        self._directions = {"up": _Direction(), "down": _Direction()}
        self.script = Script()
        self.num_forgotten = 0
        self.num_delayed_by_outages = 0
        self.properties = LineProperties()
        self._began = time.monotonic()
        super().__init__(thread)

    def become(self, properties: LineProperties, script: Script) -> None:
        """Take on other properties and faults, from now on; the first connection is yet to come."""
        self.properties, self.script = properties, script
        self._began = time.monotonic()

    def num_bytes(self, direction: str) -> int:
        """Return how many bytes it has carried."""
        return self._directions[direction].num_bytes

    async def serve(self, client: Stream) -> None:
        await self._outage()
        script = self.script
        fault = script.draw(TCP_FAULTS, "connection")
        if fault is not None and fault.kind == "refuse":
            script.count(fault)
            client.reset()
            return
        server = await connect(*self._to)
        connection = _Connection(client, server, script, fault, _left(script, fault), time.monotonic())
        try:
            await both(self._carry(connection, "up"), self._carry(connection, "down"))
        finally:
            server.close()

    async def _carry(self, connection: _Connection, direction: str) -> None:
        source, sink = connection.client, connection.server
        if direction == "down":
            source, sink = sink, source
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(4096)
        delivery = asyncio.create_task(self._deliver(on_the_way, sink, connection))
        try:
            while block := await source.reader.read(self._block_bytes()):
                block = self._strike(connection, block)
                if block and not connection.silent:
                    self._take_room(direction, len(block))
                    await on_the_way.put((self._due(direction), block))
                    await self._await_room(direction)
            await on_the_way.put((self._due(direction), b""))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self, on_the_way: asyncio.Queue[tuple[float, bytes]], sink: Stream, connection: _Connection
    ) -> None:
        while True:
            due, block = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._outage()
            if connection.silent:
                continue
            if not block:
                sink.finish()
                return
            await sink.send(block)

    def _block_bytes(self) -> int:
        rate = self.properties.bits_per_s / 8
        return int(min(16 << 10, max(256, rate * 0.02))) if rate else 16 << 10

    def _due(self, direction: str) -> float:
        """Return when what has room in the line now arrives: with the last of its bytes."""
        properties = self.properties
        jitter_s = properties.jitter_s * self.script.pick(1000) / 1000 if properties.jitter_s else 0.0
        return max(time.monotonic(), self._directions[direction].free_at) + properties.delay_s + jitter_s

    def _take_room(self, direction: str, num_bytes: int) -> None:
        way, rate = self._directions[direction], self.properties.bits_per_s / 8
        way.num_bytes += num_bytes
        if rate:
            way.free_at = max(time.monotonic(), way.free_at) + num_bytes / rate

    async def _await_room(self, direction: str) -> None:
        """Wait while too many bytes are on the way."""
        if self.properties.bits_per_s:
            await asyncio.sleep(max(0.0, self._directions[direction].free_at - time.monotonic() - QUEUED_S))

    async def _outage(self) -> None:
        while (left_s := self.properties.outage_ends(time.monotonic() - self._began)) > 0:
            self.num_delayed_by_outages += 1
            await asyncio.sleep(left_s)

    def _strike(self, connection: _Connection, block: bytes) -> bytes:
        """Do to a connection what its fault says, if it is time; return what still passes."""
        now, properties, fault = time.monotonic(), self.properties, connection.fault
        if properties.idle_s and now - connection.heard > properties.idle_s and not connection.silent:
            connection.silent = True
            self.num_forgotten += 1
        connection.heard = now
        if connection.script is not self.script:
            connection.script = self.script
            fault = connection.fault = self.script.draw(TCP_FAULTS[1:], "connection")
            connection.left = _left(self.script, fault)
        if fault is None:
            return block
        connection.left -= len(block)
        if connection.left > 0:
            return block
        connection.fault = None
        self.script.count(fault)
        match fault.kind:
            case "cut":
                connection.client.close()
                connection.server.close()
            case "reset":
                connection.client.reset()
                connection.server.reset()
            case "half_close":
                connection.server.finish()
            case "blackhole":
                connection.silent = True
            case "flip_bytes":
                at = self.script.pick(len(block))
                return block[:at] + bytes([block[at] ^ 1 << self.script.pick(8)]) + block[at + 1 :]
        return b""


def _left(script: Script, fault: Fault | None) -> int:
    """Return after how many bytes a fault strikes."""
    return 0 if fault is None else fault.num // 2 + script.pick(fault.num)
