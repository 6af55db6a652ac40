"""A bare MQTT client on a socket, which can do what paho never would."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websocket
from websockets.typing import Subprotocol

from fedjob.hub.broker.mqtt_packets import CONNACK, DISCONNECT, Packets, kind_of

PUBACK, SUBACK, PINGRESP = 4, 9, 13


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return len(encoded).to_bytes(2, "big") + encoded


def packet(head: int, body: bytes) -> bytes:
    length, start = len(body), bytes([head])
    while True:
        length, digit = divmod(length, 128)
        start += bytes([digit | (0x80 if length else 0)])
        if not length:
            return start + body


def connect(
    user: str,
    password: str,
    *,
    version: int = 4,
    client_id: str | None = None,
    clean: bool = True,
    keep_alive_s: int = 60,
    expiry_s: int = 0,
    will: tuple[str, bytes, bool] | None = None,
    name: str = "MQTT",
) -> bytes:
    """Return a CONNECT packet."""
    flags = (0x02 if clean else 0) | (0xC0 if user else 0)
    body = b""
    if version == 5:
        properties = b"" if not expiry_s else b"\x11" + expiry_s.to_bytes(4, "big")
        body += bytes([len(properties)]) + properties
    body += text(f"{user}:{secrets.token_hex(6)}" if client_id is None else client_id)
    if will is not None:
        flags |= 0x04 | (0x20 if will[2] else 0)
        body += (b"\x00" if version == 5 else b"") + text(will[0]) + text(will[1])
    if user:
        body += text(user) + text(password)
    return packet(0x10, text(name) + bytes([version, flags]) + keep_alive_s.to_bytes(2, "big") + body)


def publish(topic: str, payload: bytes, *, retain: bool = False, version: int = 4) -> bytes:
    """Return a PUBLISH packet with QoS 0."""
    body = text(topic) + (b"\x00" if version == 5 else b"") + payload
    return packet(0x30 | (1 if retain else 0), body)


def subscribe(*filters: str, version: int = 4, number: int = 1) -> bytes:
    """Return a SUBSCRIBE packet with QoS 0: nothing has to be acknowledged."""
    body = number.to_bytes(2, "big") + (b"\x00" if version == 5 else b"")
    return packet(0x82, body + b"".join(text(each) + b"\x00" for each in filters))


@dataclass
class Answer:
    """The broker's answer to a login, or its farewell: a code, and a sentence where MQTT 5 has one."""

    code: int
    sentence: str = ""


class BareClient:
    """A client on a socket of its own, as a context manager."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 10, version: int = 4) -> None:
        self.version = version
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._packets = Packets(1 << 20)
        self._waiting: list[bytes] = []

    def __enter__(self) -> BareClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """Return the next bytes; none at the end."""
        return self.socket.recv(1 << 16)

    def close(self) -> None:
        """End the connection without a word."""
        self.socket.close()

    def next(self) -> bytes:
        """Return the next packet; raise EOFError where there is none any more."""
        while not self._waiting:
            try:
                block = self.receive()
            except ConnectionResetError:
                block = b""
            if not block:
                raise EOFError
            self._waiting += self._packets.feed(block)
        return self._waiting.pop(0)

    def until(self, *kinds: int) -> bytes:
        """Return the next packet of these kinds."""
        while kind_of(found := self.next()) not in kinds:
            pass
        return found

    def login(self, login: bytes) -> Answer:
        """Send a login; return the answer, -1 for none."""
        self.send(login)
        try:
            return self._answer(_body(self.until(CONNACK))[1:])
        except EOFError:
            return Answer(-1)

    def farewell(self) -> Answer:
        """Wait for the end of the session; return the code of the broker's last word, -1 for none."""
        try:
            return self._answer(_body(self.until(DISCONNECT)))
        except EOFError:
            return Answer(-1)

    def _answer(self, body: bytes) -> Answer:
        code, rest = body[0], body[1:]
        at = rest.find(b"\x1f")
        return Answer(code, rest[at + 3 :].decode() if self.version == 5 and at >= 0 else "")


class WebSocketClient(BareClient):
    """The same over a WebSocket, at a hub's own port."""

    def __init__(self, url: str, *, timeout_s: float = 10, version: int = 4) -> None:
        self.version = version
        self._timeout_s = timeout_s
        self._line = websocket(
            url, subprotocols=[Subprotocol("mqtt")], open_timeout=timeout_s, close_timeout=0.1
        )
        self.socket = self._line.socket
        self._packets = Packets(1 << 20)
        self._waiting = []

    def send(self, data: bytes) -> None:
        try:
            self._line.send(data)
        except ConnectionClosed as error:
            raise ConnectionResetError from error

    def receive(self) -> bytes:
        try:
            return bytes(self._line.recv(self._timeout_s))  # type: ignore[arg-type]
        except ConnectionClosed:
            return b""

    def close(self) -> None:
        self._line.close()


def _body(whole: bytes) -> bytes:
    return whole[2:] if whole[1] < 0x80 else whole[3:]
