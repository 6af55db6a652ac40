"""Faults of MQTT: packets that are taken apart, lost, doubled, held back, spoiled or said again.

    drop        a PUBLISH is lost
    duplicate   it comes twice
    reorder     it comes after those that follow it within a tenth of a second
    delay       it comes after some seconds
    corrupt     a bit of what it carries is wrong
    replay      an earlier PUBLISH comes after it once more
    garble      a byte of any packet is wrong, its type and length among them
    disconnect  the connection ends
    lose_ack    the acknowledgement of a PUBLISH is lost

A packet is MQTT 5 or 3.1.1 (section 2.1), by itself or in the binary frames of a WebSocket (RFC 6455, section 5.2).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.script import MQTT_FAULTS, Fault, Script
from tests.faults.serving import Stream, both

PUBLISH, PUBACK, CONNECT = 3, 4, 1
NUM_REMEMBERED = 2000
REORDERED_S = 0.1

_BINARY, _CONTINUED, _FIRST_CONTROL = 2, 0, 8


@dataclass(frozen=True, slots=True)
class Packet:
    """A control packet as it travels."""

    kind: int
    data: bytes
    body_at: int

    @property
    def topic_end(self) -> int:
        """Where the topic of a PUBLISH ends."""
        return self.body_at + 2 + int.from_bytes(self.data[self.body_at : self.body_at + 2], "big")

    @property
    def topic(self) -> str:
        return self.data[self.body_at + 2 : self.topic_end].decode("utf-8", "replace")

    def without_quality(self) -> bytes:
        """Return this PUBLISH with quality of service 0, so that nobody is to acknowledge it once more."""
        flags = self.data[0] & 0b0110
        rest = self.data[self.body_at : self.topic_end] + self.data[self.topic_end + (2 if flags else 0) :]
        return bytes([self.data[0] & 0xF0]) + _length(len(rest)) + rest


def _length(number: int) -> bytes:
    found = bytearray()
    while True:
        number, digit = divmod(number, 128)
        found.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(found)


def split(data: bytes) -> tuple[list[Packet], bytes]:
    """Return the whole packets at the beginning of what has come, and the rest."""
    packets = []
    while True:
        size, at = 0, 1
        while at < len(data) and at < 5:
            size |= (data[at] & 0x7F) << 7 * (at - 1)
            at += 1
            if data[at - 1] < 0x80:
                break
        else:
            return packets, data
        if len(data) < at + size:
            return packets, data
        packets.append(Packet(data[0] >> 4, data[: at + size], at))
        data = data[at + size :]


class MqttFaults:
    """Passes packets of any number of connections on, and does to them what a script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.num_published = 0
        self._told: dict[str, deque[bytes]] = {
            "up": deque(maxlen=NUM_REMEMBERED),
            "down": deque(maxlen=NUM_REMEMBERED),
        }

    async def carry(self, client: Stream, server: Stream, *, websocket: bool) -> None:
        """Serve one connection."""
        await both(
            self._direction(client, server, "up", websocket),
            self._direction(server, client, "down", websocket),
        )

    async def _direction(self, source: Stream, sink: Stream, direction: str, websocket: bool) -> None:
        async def send(data: bytes) -> None:
            await sink.send(_frame(data, masked=direction == "up") if websocket else data)

        later: set[asyncio.Task[None]] = set()
        data = b""
        try:
            while block := await (_payload(source, sink) if websocket else source.reader.read(16 << 10)):
                packets, data = split(data + block)
                for packet in packets:
                    await self._pass(packet, direction, send, later)
        finally:
            for task in later:
                task.cancel()
        sink.finish()

    async def _pass(
        self,
        packet: Packet,
        direction: str,
        send: Callable[[bytes], Awaitable[None]],
        later: set[asyncio.Task[None]],
    ) -> None:
        """Pass one packet on."""
        if packet.kind == CONNECT:
            await send(packet.data)
            return
        kinds = {PUBLISH: tuple(kind for kind in MQTT_FAULTS if kind != "lose_ack"), PUBACK: ("lose_ack",)}
        name = {PUBLISH: "PUBLISH", PUBACK: "PUBACK"}.get(packet.kind, "packet")
        topic = packet.topic if packet.kind == PUBLISH else ""
        fault = self.script.draw(kinds.get(packet.kind, ("garble",)), f"{name} {direction} {topic}")
        if packet.kind == PUBLISH:
            self.num_published += 1
            self._told[direction].append(packet.without_quality())
        if fault is None:
            await send(packet.data)
            return
        self.script.count(fault)
        match fault.kind:
            case "duplicate":
                await send(packet.data)
                await send(packet.data)
            case "reorder" | "delay":
                seconds = fault.seconds if fault.kind == "delay" else REORDERED_S
                task = asyncio.create_task(_send_later(seconds, packet.data, send))
                later.add(task)
                task.add_done_callback(later.discard)
            case "corrupt" | "garble":
                begin = packet.topic_end + 3 if fault.kind == "corrupt" else 0
                await send(self._flipped(packet.data, begin))
            case "replay":
                await send(packet.data)
                for _ in range(max(1, fault.num)):
                    await send(self._told[direction][self.script.pick(len(self._told[direction]))])
            case "disconnect":
                raise EOFError("the connection ends")

    def _flipped(self, data: bytes, begin: int) -> bytes:
        at = begin + self.script.pick(len(data) - begin)
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << self.script.pick(8)]) + data[at + 1 :]


async def _send_later(seconds: float, data: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await send(data)


async def _payload(source: Stream, sink: Stream) -> bytes:
    """Return what the next data frame carries; control frames pass as they are. Empty where the connection ends."""
    while True:
        try:
            head = await source.reader.readexactly(2)
            frame = head
            size = head[1] & 0x7F
            if size > 125:
                frame += (extended := await source.reader.readexactly(2 if size == 126 else 8))
                size = int.from_bytes(extended, "big")
            mask = await source.reader.readexactly(4) if head[1] & 0x80 else b""
            body = await source.reader.readexactly(size)
        except asyncio.IncompleteReadError:
            return b""
        if head[0] & 0x0F >= _FIRST_CONTROL:
            await sink.send(frame + mask + body)
        elif size:
            return _masked(body, mask) if mask else body


def _frame(data: bytes, *, masked: bool) -> bytes:
    """Return a WebSocket frame; those of clients are masked."""
    size = len(data)
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([0x80 | _BINARY, bit | size])
    elif size < 1 << 16:
        head = bytes([0x80 | _BINARY, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | _BINARY, bit | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + data
    mask = os.urandom(4)
    return head + mask + _masked(data, mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


__all__ = ["Fault", "MqttFaults", "Packet", "split"]
