"""MQTT packets as the hub's gate reads them: logins, and the kinds, lengths, flags and topics of what follows.

MQTT 3.1.1 and 5, sections 2 and 3. Nothing here looks into the payload of a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fedjob.common.errors import DecodeError

CONNECT, CONNACK, PUBLISH, SUBSCRIBE, DISCONNECT = 1, 2, 3, 8, 14
FROM_CLIENTS = frozenset({PUBLISH, 4, 5, 6, 7, SUBSCRIBE, 10, 12, DISCONNECT})
"""The kinds of packets that a client sends after its login."""

_SESSION_EXPIRY, _REASON_STRING = 0x11, 0x1F
_PROPERTY_BYTES = {0x11: 4, 0x17: 1, 0x19: 1, 0x21: 2, 0x22: 2, 0x27: 4}
_PROPERTY_TEXTS = {0x15: 1, 0x16: 1, 0x26: 2}
_MAX_SENTENCE = 1000


class Reason(IntEnum):
    """The reasons of MQTT 5 that the gate gives."""

    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    VERSION = 0x84
    CLIENT_ID = 0x85
    BAD_LOGIN = 0x86
    NOT_AUTHORIZED = 0x87
    UNAVAILABLE = 0x88
    BUSY = 0x89
    TOO_LARGE = 0x95
    RATE = 0x96
    QUOTA = 0x97
    ADMINISTRATIVE = 0x98
    RETAIN = 0x9A
    CONNECTION_RATE = 0x9F


_OLD_REASONS = {Reason.VERSION: 1, Reason.CLIENT_ID: 2, Reason.BAD_LOGIN: 4, Reason.NOT_AUTHORIZED: 5}
_OLD_UNAVAILABLE = 3


class Malformed(DecodeError):
    """The bytes are no packet of MQTT."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """A client's first packet, CONNECT.

    Args:
        version: 4 for MQTT 3.1.1, or 5; or any other number that a client gave.
        leaves_session: the broker would keep the session after the connection's end.
        will_topic: of its last will; None for no will.
    """

    version: int
    client_id: str = ""
    user: str = ""
    password: str = ""
    keep_alive_s: int = 0
    leaves_session: bool = False
    will_topic: str | None = None
    will_is_retained: bool = False
    will_bytes: int = 0


class Packets:
    """The packets in a stream of bytes.

    Args:
        limit_bytes: largest length of one.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()

    def feed(self, block: bytes) -> list[bytes]:
        """Return the packets that are complete with these bytes.

        Raises:
            Malformed: a length is none, or above the limit.
        """
        self._rest += block
        data, at, found = self._rest, 0, []
        while (size := _size(data, at)) is not None:
            if size > self._limit_bytes:
                raise Malformed(f"expected packets of at most {self._limit_bytes} bytes, found {size}")
            if at + size > len(data):
                break
            found.append(bytes(data[at : at + size]))
            at += size
        del data[:at]
        return found


def kind_of(packet: bytes) -> int:
    """Return the kind of a packet."""
    return packet[0] >> 4


def login_of(packet: bytes) -> ConnectRequest:
    """Return what a CONNECT packet has in it.

    Raises:
        Malformed: it is none.
    """
    if kind_of(packet) != CONNECT:
        raise Malformed("expected CONNECT first")
    cursor = _body(packet)
    name, version = cursor.text(), cursor.number(1)
    if name != "MQTT" or version not in (4, 5):
        return ConnectRequest(version if name == "MQTT" else 3)
    flags, keep_alive_s = cursor.number(1), cursor.number(2)
    expiry_s = cursor.properties() if version == 5 else 0
    client_id = cursor.text()
    will_topic, will_bytes = None, 0
    if flags & 0x04:
        if version == 5:
            cursor.take(cursor.variable())
        will_topic, will_bytes = cursor.text(), len(cursor.binary())
    user = cursor.text() if flags & 0x80 else ""
    password = cursor.binary().decode("utf-8", "replace") if flags & 0x40 else ""
    return ConnectRequest(
        version,
        client_id,
        user,
        password,
        keep_alive_s,
        leaves_session=not flags & 0x02 or expiry_s > 0,
        will_topic=will_topic,
        will_is_retained=bool(flags & 0x20) and will_topic is not None,
        will_bytes=will_bytes,
    )


def topic_of(packet: bytes) -> tuple[str, bool]:
    """Return the topic of a PUBLISH packet, empty where it has a number in its stead, and whether it is to be retained.

    Raises:
        Malformed: it has none.
    """
    return _body(packet).text(), bool(packet[0] & 0x01)


def num_filters(packet: bytes, version: int) -> int:
    """Return the number of topic filters in a SUBSCRIBE packet.

    Raises:
        Malformed: it is none.
    """
    cursor = _body(packet)
    cursor.take(2)
    if version == 5:
        cursor.take(cursor.variable())
    count = 0
    while cursor.left:
        cursor.binary()
        cursor.take(1)
        count += 1
    return count


def is_accepted(answer: bytes) -> bool:
    """Return whether a packet of a broker is a CONNACK that lets a client in."""
    body = _body(answer)
    return kind_of(answer) == CONNACK and body.left >= 2 and body.take(2)[1] == 0


def refused_login(version: int, reason: Reason, sentence: str) -> bytes:
    """Return the CONNACK packet that refuses a client; MQTT 3.1.1 has no room for the sentence."""
    if version == 5:
        return _packet(CONNACK, b"\x00" + bytes([reason]) + _sentence(sentence))
    return _packet(CONNACK, bytes([0, _OLD_REASONS.get(reason, _OLD_UNAVAILABLE)]))


def farewell(version: int, reason: Reason, sentence: str) -> bytes:
    """Return the packet with which a broker ends a session; empty in MQTT 3.1.1, which has none."""
    return _packet(DISCONNECT, bytes([reason]) + _sentence(sentence)) if version == 5 else b""


def size_of(data: bytes | bytearray) -> int | None:
    """Return the length of the packet that begins here, head included; None where that has not come yet.

    Raises:
        Malformed: it is none.
    """
    return _size(data, 0)


class _Cursor:
    """A place in a packet's body, from which fields are read in turn."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Malformed("expected more bytes in a packet")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, num_bytes: int) -> int:
        return int.from_bytes(self.take(num_bytes), "big")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            return self.binary().decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("expected UTF-8") from None

    def variable(self) -> int:
        value = 0
        for place in range(4):
            digit = self.number(1)
            value |= (digit & 0x7F) << 7 * place
            if digit < 0x80:
                return value
        raise Malformed("expected a length of at most four bytes")

    def properties(self) -> int:
        """Read a CONNECT packet's properties; return for how many seconds the session is to outlive its connection."""
        inner = _Cursor(self.take(self.variable()), 0)
        expiry_s = 0
        while inner.left:
            name = inner.number(1)
            if name in _PROPERTY_BYTES:
                value = inner.number(_PROPERTY_BYTES[name])
                expiry_s = value if name == _SESSION_EXPIRY else expiry_s
            elif name in _PROPERTY_TEXTS:
                for _ in range(_PROPERTY_TEXTS[name]):
                    inner.binary()
            else:
                raise Malformed(f"expected a property of CONNECT, found number {name}")
        return expiry_s


def _size(data: bytes | bytearray, at: int) -> int | None:
    """Return the length of the packet that begins there, head included; None where that has not come yet."""
    value = 0
    for place in range(4):
        if at + 1 + place >= len(data):
            return None
        digit = data[at + 1 + place]
        value |= (digit & 0x7F) << 7 * place
        if digit < 0x80:
            return 2 + place + value
    raise Malformed("expected a length of at most four bytes")


def _body(packet: bytes) -> _Cursor:
    head = 2
    while packet[head - 1] >= 0x80:
        head += 1
    return _Cursor(packet, head)


def _packet(kind: int, body: bytes) -> bytes:
    length, head = len(body), bytes([kind << 4])
    while True:
        length, digit = divmod(length, 128)
        head += bytes([digit | (0x80 if length else 0)])
        if not length:
            return head + body


def _sentence(sentence: str) -> bytes:
    text = sentence.encode()[:_MAX_SENTENCE]
    inner = bytes([_REASON_STRING]) + len(text).to_bytes(2, "big") + text
    length = len(inner)
    return (bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])) + inner
