"""The first packet of an MQTT connection, read and written again."""

from __future__ import annotations

import random
import struct

import pytest

from fedjob.common.errors import DecodeError
from fedjob.hub.broker.connect_packet import MAX_CONNECT_BYTES, connect_bytes, read_connect


def text(value: bytes) -> bytes:
    return struct.pack("!H", len(value)) + value


def varint(value: int) -> bytes:
    made = b""
    while True:
        value, digit = divmod(value, 128)
        made += bytes([digit | (0x80 if value else 0)])
        if not value:
            return made


def packet(
    version: int = 5,
    *,
    user: bytes | None = b"clinic",
    password: bytes | None = b"secret",
    will: tuple[bytes, bytes] | None = None,
    properties: bytes = b"\x27\x00\x04\x00\x00",
    name: bytes = b"MQTT",
    flags: int = 0x02,
    more: bytes = b"",
) -> bytes:
    flags |= (0x80 if user is not None else 0) | (0x40 if password is not None else 0) | (0x04 if will else 0)
    body = text(name) + bytes([version, flags]) + struct.pack("!H", 30)
    body += varint(len(properties)) + properties if version == 5 else b""
    body += text(b"client")
    if will is not None:
        body += (b"\x00" if version == 5 else b"") + text(will[0]) + text(will[1])
    body += b"".join(text(each) for each in (user, password) if each is not None) + more
    return b"\x10" + varint(len(body)) + body


GOOD = {
    f"{version} {kind}": packet(version, name=b"MQIsdp" if version == 3 else b"MQTT", **fields)  # type: ignore[arg-type]
    for version in (3, 4, 5)
    for kind, fields in {
        "plain": {},
        "with a will": {"will": (b"fedjob/1/presence/clinic", b"0" * 300)},
        "without a login": {"user": None, "password": None},
        "without a password": {"password": None},
        "long": {"password": b"p" * 5000},
        "of a name with an accent": {"user": "hôpital".encode()},
    }.items()
}


@pytest.mark.parametrize("name", GOOD)
def test_a_packet_is_read_and_written_with_another_password(name: str) -> None:
    whole = GOOD[name]
    assert connect_bytes(whole) == len(whole)
    assert connect_bytes(whole + b"more") == len(whole)
    read = read_connect(whole)
    assert read.version == int(name[0])
    assert read.has_login == ("without a login" not in name)
    if read.password:
        assert read.with_password(read.password) == whole
        again = read_connect(read.with_password("another"))
        assert (again.user, again.password, again.version) == (read.user, "another", read.version)


@pytest.mark.parametrize("name", GOOD)
def test_a_packet_that_ends_too_early_is_waited_for_or_refused(name: str) -> None:
    whole = GOOD[name]
    for end in range(len(whole)):
        length = connect_bytes(whole[:end])
        assert length is None or length > end
        with pytest.raises(DecodeError):
            read_connect(whole[:end])


BAD = {
    "no CONNECT": b"\x30\x02ab",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "a length without end": b"\x10\xff\xff\xff\xff\x01",
    "too long": b"\x10" + varint(MAX_CONNECT_BYTES),
    "another protocol": packet(name=b"MQTX"),
    "version 6": packet(6),
    "version 3 under the new name": packet(3),
    "version 5 under the old name": packet(5, name=b"MQIsdp"),
    "the reserved flag": packet(flags=0x03),
    "a password without a user": packet(user=None),
    "more after its end": packet(more=b"x"),
    "a name that is no text": packet(user=b"\xff\xfe"),
    "empty": b"\x10\x00",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_packet_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        read_connect(BAD[name])


def test_no_bytes_whatever_raise_anything_else() -> None:
    chance = random.Random(11)
    for _ in range(3000):
        seed = bytearray(chance.choice(list(GOOD.values())))
        for _ in range(chance.randrange(1, 6)):
            seed[chance.randrange(len(seed))] = chance.randrange(256)
        try:
            connect_bytes(bytes(seed))
            read_connect(bytes(seed))
        except DecodeError:
            continue


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_refusal_is_an_answer_of_the_clients_version(version: int) -> None:
    read = read_connect(packet(version, name=b"MQIsdp" if version == 3 else b"MQTT"))
    answer = read.refusal("the certificate is of another" * 50)
    if version < 5:
        assert answer == b"\x20\x02\x00\x05"
        return
    assert answer[0] == 0x20
    assert b"\x00\x87" in answer[:6]
    assert b"the certificate is of another" in answer
