"""The first packet of an MQTT connection, CONNECT: read before the broker sees it, and written with another password.

MQTT 3.1.1 and MQTT 5, sections 3.1 (CONNECT) and 3.2 (CONNACK).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.errors import DecodeError

MAX_CONNECT_BYTES = 16 << 10
MAX_REASON_BYTES = 1000

_CONNECT, _CONNACK = 0x10, 0x20
_NAMES = {b"MQTT": (4, 5), b"MQIsdp": (3,)}
_RESERVED, _WILL, _PASSWORD, _USER = 0x01, 0x04, 0x40, 0x80
_NOT_AUTHORIZED = {3: 0x05, 4: 0x05, 5: 0x87}
_REASON_STRING = 0x1F


@dataclass(frozen=True, slots=True)
class ConnectPacket:
    """A CONNECT packet.

    Args:
        version: 3, 4 (which is 3.1.1) or 5.
        user, password: empty where the packet has none.
        before_password: of its content, everything that stands before the password.
    """

    version: int
    user: str
    password: str
    before_password: bytes

    @property
    def has_login(self) -> bool:
        """True if it names a user."""
        return bool(self.user)

    def with_password(self, password: str) -> bytes:
        """Return the packet with another password."""
        body = self.before_password + _text(password.encode())
        return bytes([_CONNECT]) + _varint(len(body)) + body

    def refusal(self, why: str) -> bytes:
        """Return a broker's answer that lets nobody in; only version 5 can carry the reason."""
        code = _NOT_AUTHORIZED[self.version]
        if self.version < 5:
            return bytes([_CONNACK, 2, 0, code])
        reason = why.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
        properties = bytes([_REASON_STRING]) + _text(reason)
        body = bytes([0, code]) + _varint(len(properties)) + properties
        return bytes([_CONNACK]) + _varint(len(body)) + body


def connect_bytes(begin: bytes) -> int | None:
    """Return the length of the CONNECT packet with which a connection begins; None while too little has come.

    Raises:
        DecodeError: it begins with something else, or with more than `MAX_CONNECT_BYTES`.
    """
    if begin and begin[0] != _CONNECT:
        raise DecodeError("expected an MQTT CONNECT packet")
    found = _read_varint(begin, 1)
    if found is None:
        return None
    length, at = found
    if at + length > MAX_CONNECT_BYTES:
        raise DecodeError(
            f"expected a CONNECT packet of at most {MAX_CONNECT_BYTES} bytes, found {at + length}"
        )
    return at + length


def read_connect(packet: bytes) -> ConnectPacket:
    """Read a whole CONNECT packet.

    Raises:
        DecodeError: it is malformed.
    """
    if connect_bytes(packet) != len(packet):
        raise DecodeError("expected one whole CONNECT packet")
    found = _read_varint(packet, 1)
    assert found is not None  # connect_bytes has found it
    body = _Fields(packet[found[1] :])
    name, version, flags = body.block(), body.byte(), body.byte()
    if version not in _NAMES.get(name, ()):
        raise DecodeError("expected MQTT 3.1, 3.1.1 or 5")
    if flags & _RESERVED or (flags & _PASSWORD and not flags & _USER):
        raise DecodeError("the CONNECT packet has flags that exclude each other")
    body.skip(2)  # keep alive
    if version == 5:
        body.skip(body.varint())
    body.block()  # client id
    if flags & _WILL:
        if version == 5:
            body.skip(body.varint())
        body.block()  # topic
        body.block()  # payload
    user = body.text() if flags & _USER else ""
    before = body.read_so_far()
    password = body.text() if flags & _PASSWORD else ""
    body.end()
    return ConnectPacket(version, user, password, before)


class _Fields:
    """Fields of a packet, one after another; each raises DecodeError where the packet ends too early."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def skip(self, num_bytes: int) -> bytes:
        end = self._at + num_bytes
        if end > len(self._content):
            raise DecodeError("the CONNECT packet ends too early")
        found, self._at = self._content[self._at : end], end
        return found

    def byte(self) -> int:
        return self.skip(1)[0]

    def varint(self) -> int:
        found = _read_varint(self._content, self._at)
        if found is None:
            raise DecodeError("the CONNECT packet ends too early")
        value, self._at = found
        return value

    def block(self) -> bytes:
        return self.skip(int.from_bytes(self.skip(2), "big"))

    def text(self) -> str:
        try:
            return self.block().decode()
        except UnicodeDecodeError as error:
            raise DecodeError("the CONNECT packet has a name or password that is no text") from error

    def read_so_far(self) -> bytes:
        return self._content[: self._at]

    def end(self) -> None:
        if self._at != len(self._content):
            raise DecodeError("the CONNECT packet goes on after its end")


def _read_varint(content: bytes, at: int) -> tuple[int, int] | None:
    """Return a variable byte integer and the place after it; None where its end has not come (section 1.5.5)."""
    value = 0
    for place in range(4):
        if at + place >= len(content):
            return None
        digit = content[at + place]
        value |= (digit & 0x7F) << (7 * place)
        if digit < 0x80:
            return value, at + place + 1
    raise DecodeError("the CONNECT packet has a length that is none")


def _varint(value: int) -> bytes:
    encoded = b""
    while True:
        value, digit = divmod(value, 128)
        encoded += bytes([digit | (0x80 if value else 0)])
        if not value:
            return encoded


def _text(encoded: bytes) -> bytes:
    return len(encoded).to_bytes(2, "big") + encoded
