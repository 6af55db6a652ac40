"""MQTT packets as the gate of a hub's broker reads them."""

from __future__ import annotations

import random

import pytest

from fedjob.common.errors import DecodeError
from fedjob.hub.broker.mqtt_packets import (
    Malformed,
    Packets,
    Reason,
    farewell,
    is_accepted,
    login_of,
    num_filters,
    refused_login,
    size_of,
    topic_of,
)
from tests.bare_mqtt import connect, packet, publish, subscribe, text


def login(version: int = 5, **fields: object) -> bytes:
    return connect("clinic", "secret", version=version, client_id="clinic:1", **fields)  # type: ignore[arg-type]


GOOD = {
    f"{version} {kind}": login(version, **fields)
    for version in (4, 5)
    for kind, fields in {
        "plain": {},
        "with a will": {"will": ("fedjob/1/presence/clinic", b"0" * 300, True)},
        "that stays": {"clean": False},
    }.items()
} | {"5 with an expiry": login(5, expiry_s=10), "4 without a login": connect("", "", client_id="probe")}


def with_flags(flags: int) -> bytes:
    """Return a login of MQTT 3.1.1 with other flags."""
    made = bytearray(login(4))
    made[9] = flags
    return bytes(made)


@pytest.mark.parametrize("name", GOOD)
def test_a_login_is_read(name: str) -> None:
    whole = GOOD[name]
    read = login_of(whole)
    assert read.version == int(name[0])
    assert read.leaves_session == ("stays" in name or "expiry" in name)
    assert (read.user, read.password) == (("", "") if "without" in name else ("clinic", "secret"))
    assert (read.will_topic, read.will_bytes) == (
        ("fedjob/1/presence/clinic", 300) if "will" in name else (None, 0)
    )
    assert read.will_is_retained == ("will" in name)
    assert size_of(whole) == size_of(whole + b"more") == len(whole)


@pytest.mark.parametrize("name", GOOD)
def test_a_login_that_ends_too_early_is_waited_for_or_refused(name: str) -> None:
    whole = GOOD[name]
    for end in range(len(whole)):
        size = size_of(whole[:end])
        assert size is None or size > end
        with pytest.raises(Malformed):
            login_of(whole[:end])


BAD = {
    "no CONNECT": b"\x30\x02ab",
    "flags of the kind": b"\x11" + login()[1:],
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a length without end": b"\x10\xff\xff\xff\xff\x01",
    "another protocol": login(4, name="MQTX"),
    "the reserved flag": with_flags(0xC3),
    "a will's flag without a will": with_flags(0xE2),
    "a will of QoS 3": with_flags(0xDE),
    "a password without a user": with_flags(0x42),
    "more after its end": packet(0x10, login(4)[2:] + b"x"),
    "a name that is no text": packet(
        0x10, text("MQTT") + b"\x04\x82\x00\x1e" + text("id") + text(b"\xff\xfe")
    ),
    "an unknown property": packet(0x10, text("MQTT") + b"\x05\x02\x00\x1e\x02\x7f\x00" + text("id")),
    "empty": b"\x10\x00",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_login_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        login_of(BAD[name])


@pytest.mark.parametrize(("version", "name"), [(3, "MQIsdp"), (3, "MQTT"), (6, "MQTT"), (5, "MQIsdp")])
def test_another_version_is_told_and_not_read(version: int, name: str) -> None:
    read = login_of(login(version, name=name))
    assert read.version == (version if name == "MQTT" else 3)
    assert not read.user


def test_no_bytes_whatever_raise_anything_else() -> None:
    chance = random.Random(11)
    whole = [*GOOD.values(), publish("a/b", b"x", version=5), subscribe("a/#", "b", version=5)]
    for _ in range(5000):
        seed = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 6)):
            seed[chance.randrange(len(seed))] = chance.randrange(256)
        for read in (
            login_of,
            topic_of,
            lambda data: num_filters(data, 5),
            lambda data: num_filters(data, 4),
        ):
            try:
                for found in Packets(1 << 16).feed(bytes(seed)):
                    read(found)
            except Malformed:
                continue


def test_packets_are_found_wherever_the_blocks_are_cut() -> None:
    sent = [publish("a", b"x" * size) for size in (0, 1, 120, 130, 20_000)] + [subscribe("a", "b/#")]
    stream = b"".join(sent)
    chance = random.Random(7)
    for _ in range(50):
        packets, found, at = Packets(1 << 16), [], 0
        while at < len(stream):
            size = chance.choice((1, 2, 3, 100, 5000))
            found += packets.feed(stream[at : at + size])
            at += size
        assert found == sent
    with pytest.raises(Malformed):
        Packets(100).feed(publish("a", b"x" * 200)[:5])


def test_topics_and_filters_are_read() -> None:
    assert topic_of(publish("a/b", b"x", retain=True)) == ("a/b", True)
    assert topic_of(publish("", b"x")) == ("", False)
    assert [num_filters(subscribe("a", "b", "c", version=version), version) for version in (4, 5)] == [3, 3]


@pytest.mark.parametrize("sentence", ["no", "the certificate is of another" * 50])
def test_a_refusal_is_an_answer_of_the_clients_version(sentence: str) -> None:
    assert refused_login(4, Reason.NOT_AUTHORIZED, sentence) == b"\x20\x02\x00\x05"
    answer = refused_login(5, Reason.NOT_AUTHORIZED, sentence)
    assert size_of(answer) == len(answer)
    assert b"\x00\x87" in answer[:6]
    assert sentence[:1000].encode() in answer
    assert not is_accepted(answer)
    assert is_accepted(b"\x20\x03\x00\x00\x00")
    assert farewell(4, Reason.QUOTA, sentence) == b""
    assert farewell(5, Reason.QUOTA, sentence)[0] == 0xE0
