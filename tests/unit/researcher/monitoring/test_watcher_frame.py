"""What watchers are shown: the cut of the log, and whose word is taken."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import DecodeError, NotEncrypted, NotPermitted
from fedjob.common.types import MAX_FRAME_BYTES, Ref
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import decode_frame, encode_frame
from fedjob.messaging.sealed_notice import MAX_READERS
from fedjob.researcher.monitoring.summary import JobSummary
from fedjob.researcher.monitoring.watcher_frame import (
    MAX_NODES,
    MAX_SEALED_SEGMENTS,
    MAX_SEGMENT_BYTES,
    MAX_SEGMENTS,
    MAX_TEXT_CHARS,
    Segment,
    WatcherFrame,
    cut,
    open_frame,
)

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"
ANN = Identity.generate("ann")
BEN = Identity.generate("ben")
KEYS = {"ann": ANN.public_key_hex}
SHOWN = WatcherFrame(job=JOB, owner="ann", count=1, time=1.0, name="heart", nodes=["node-a"])


def test_a_log_that_grows_line_by_line_is_in_few_segments_without_gaps() -> None:
    spans: list[tuple[int, int]] = []
    put_bytes = 0
    for end in range(300, 300_001, 300):
        before, spans = spans, cut(spans, end)
        put_bytes += sum(b - a for a, b in spans if (a, b) not in before)
        assert spans[0][0] == 0
        assert spans[-1][1] == end
        assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert len(spans) < 16
    assert put_bytes < 12 * 300_000
    assert cut(spans, spans[-1][1]) == spans
    assert cut([], 0) == []


def test_what_is_shown_is_how_the_job_stands_and_as_much_of_it_as_a_frame_has_room_for() -> None:
    nodes = tuple(f"node-{number:03}" for number in range(MAX_NODES + 1))
    facts = JobSummary(
        id=JOB,
        name="heart",
        protocol="fedavg",
        plan="Plan (0123)",
        state="failed",
        reason="timeout",
        detail="x" * (MAX_TEXT_CHARS + 1),
        rounds=3,
        attempt=2,
        nodes=nodes,
        owner="Ann ann",
        created="2026-01-01",
    )
    shown = WatcherFrame.of(facts, owner="ann", count=1, time=1.0, traffic=[], segments=[])
    assert shown.facts == replace(facts, owner="ann", detail="x" * MAX_TEXT_CHARS, nodes=nodes[:MAX_NODES])
    assert list(to_plain(shown)) == list(to_plain(SHOWN))


def test_segments_have_a_largest_size_and_a_frame_room_for_four_gigabytes() -> None:
    spans: list[tuple[int, int]] = []
    for end in range(0, 4 << 30, MAX_SEGMENT_BYTES // 3):
        spans = cut(spans, end)
    assert max(b - a for a, b in spans) <= MAX_SEGMENT_BYTES
    assert len(spans) <= MAX_SEGMENTS
    largest = Segment(start=1 << 40, end=1 << 40, ref=Ref("a" * 64, MAX_SEGMENT_BYTES))
    full = replace(
        SHOWN, nodes=["n" * 63] * MAX_NODES, detail="x" * MAX_TEXT_CHARS, segments=[largest] * MAX_SEGMENTS
    )
    assert len(full.frame(ANN, "fed")) < MAX_FRAME_BYTES
    sealed = Segment(
        start=1 << 40, end=1 << 40, ref=replace(largest.ref, cipher="a" * 64, key="b" * 64, parts=True)
    )
    readers = {f"{'r' * 60}{number:03}": BEN.sealing.public_key_hex for number in range(MAX_READERS)}
    shown = replace(full, segments=[sealed] * MAX_SEGMENTS).frame(ANN, "fed", readers)
    assert len(shown) < MAX_FRAME_BYTES
    assert len(open_frame(shown, "fed", JOB, KEYS.get, ANN).segments) == MAX_SEALED_SEGMENTS


def test_what_the_owner_signed_is_taken() -> None:
    assert open_frame(SHOWN.frame(ANN, "fed"), "fed", JOB, KEYS.get, BEN) == SHOWN


def test_what_is_encrypted_for_a_watcher_is_read_by_that_watcher_and_the_owner_alone() -> None:
    eve = Identity.generate("eve")
    shown = SHOWN.frame(ANN, "fed", {"ben": BEN.sealing.public_key_hex})
    assert b"heart" in SHOWN.frame(ANN, "fed")
    assert b"heart" not in shown
    for reader in (BEN, ANN):
        assert open_frame(shown, "fed", JOB, KEYS.get, reader, encrypted=True) == SHOWN
    for stranger in (eve, Identity.generate("ben")):
        with pytest.raises(DecodeError):
            open_frame(shown, "fed", JOB, KEYS.get, stranger, encrypted=True)


def test_a_plain_frame_is_refused_where_encryption_is_required() -> None:
    with pytest.raises(NotEncrypted, match="encryption = on"):
        open_frame(SHOWN.frame(ANN, "fed"), "fed", JOB, KEYS.get, BEN, encrypted=True)


def test_what_was_encrypted_for_one_job_or_by_one_owner_is_taken_for_no_other() -> None:
    """An owner who puts another's encrypted bytes under a frame of their own shows nothing by it."""
    eve = Identity.generate("eve")
    keys = {**KEYS, "eve": eve.public_key_hex}
    payload = decode_frame(SHOWN.frame(ANN, "fed", {"ben": BEN.sealing.public_key_hex})).payload
    with pytest.raises(DecodeError):
        open_frame(encode_frame(eve, "fed", payload), "fed", JOB, keys.get, BEN)
    with pytest.raises(DecodeError):
        open_frame(encode_frame(ANN, "fed", payload), "fed", JOB[:-1] + "2", keys.get, BEN)


@pytest.mark.parametrize("change", [b"", b"x", None, 5])
def test_an_encrypted_frame_that_was_changed_is_refused_by_name(change: object) -> None:
    payload = unpack(decode_frame(SHOWN.frame(ANN, "fed", {"ben": BEN.sealing.public_key_hex})).payload)
    for changed in (
        {**payload, "sealed": change},
        {**payload, "keys": {"ben": change}},
        {**payload, "keys": {}},
        {**payload, "sealed": payload["sealed"][:-1] + bytes([payload["sealed"][-1] ^ 1])},
    ):
        with pytest.raises(DecodeError):
            open_frame(encode_frame(ANN, "fed", pack(changed)), "fed", JOB, KEYS.get, BEN)


def test_nothing_else_is_taken() -> None:
    eve = Identity.generate("eve")
    forged = Identity.generate("ann")
    whole = SHOWN.frame(ANN, "fed")
    for data, federation, job in (
        (SHOWN.frame(forged, "fed"), "fed", JOB),
        (replace(SHOWN, owner="eve").frame(eve, "fed"), "fed", JOB),
        (whole, "other", JOB),
        (whole, "fed", JOB[:-1] + "2"),
        (replace(SHOWN, owner="bob").frame(ANN, "fed"), "fed", JOB),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "fed", JOB),
    ):
        with pytest.raises((NotPermitted, DecodeError)):
            open_frame(data, federation, job, KEYS.get, BEN)
    with pytest.raises(DecodeError, match="update this one"):
        open_frame(replace(SHOWN, version=2).frame(ANN, "fed"), "fed", JOB, KEYS.get, BEN)
    for payload in (b"", pack(1), pack({"version": 1}), pack({**to_plain(SHOWN), "count": "x"})):
        with pytest.raises(DecodeError):
            open_frame(encode_frame(ANN, "fed", payload), "fed", JOB, KEYS.get, BEN)
