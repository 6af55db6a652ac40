from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fedjob.common.errors import DecodeError, EncodeError
from fedjob.node.execution.link import MAX_BYTES, Link
from fedjob.node.execution.process import BoundedLog, EventValve


@pytest.fixture
def ends() -> tuple[Link, Link]:
    ours, theirs = socket.socketpair()
    return Link(ours), Link(theirs)


def test_a_link_carries_plain_data_and_ends_with_its_other_end(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    ours.send({"value": [1, 2.5, b"x" * 10_000]})
    assert theirs.receive() == {"value": [1, 2.5, b"x" * 10_000]}
    with pytest.raises(EncodeError):
        ours.send(object())
    ours.send("last words")
    ours.shut()
    assert theirs.receive() == "last words"
    with pytest.raises(EOFError):
        theirs.receive()
    ours.close()
    theirs.close()


def test_a_length_beyond_the_limit_is_refused_before_anything_is_read() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall((MAX_BYTES + 1).to_bytes(4, "little"))
    link = Link(theirs)
    with pytest.raises(DecodeError, match="at most"):
        link.receive()
    ours.close()
    link.close()


def test_a_flood_of_events_becomes_a_trickle(ends: tuple[Link, Link]) -> None:
    now = 100.0
    ours, theirs = ends
    emit = EventValve(ours, clock=lambda: now)
    for number in range(1000):
        emit("metrics", {"loss": number})
    for done in range(1000):
        emit("progress", {"done": done, "total": 1000})
    now += 0.2
    for done in range(1000):
        emit("note", {"done": done})
    emit("progress", {"done": 1000, "total": 1000})
    emit("large", {"text": "x" * 20_000})
    ours.shut()
    received = []
    try:
        while True:
            received.append(theirs.receive())
    except EOFError:
        pass
    assert [type_ for _, type_, _ in received] == ["metrics"] * 40 + ["note"] * 4
    assert received[0] == ["event", "metrics", {"loss": 0}]
    with pytest.raises(EncodeError):
        EventValve(ours)("odd", {"what": object()})
    ours.close()
    theirs.close()


def test_a_log_keeps_its_first_bytes_and_says_that_it_stopped(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    stream = BoundedLog(descriptor, 20)
    for _ in range(10):
        print("0123456789", file=stream)
    os.close(descriptor)
    text = (tmp_path / "log").read_text()
    assert text.startswith("0123456789\n012345678")
    assert text.endswith("is dropped]\n")
    assert len(text) < 100
