"""The inbox of a party: bounded, fair between senders, and without repetitions."""

from __future__ import annotations

from fedjob.messaging.inbox import MAX_BYTES, MAX_FRAMES, Inbox


def test_a_sender_of_thousands_delays_nobody_else_by_more_than_a_frame() -> None:
    inbox = Inbox()
    for number in range(4000):
        assert inbox.put("mallory", b"%d" % number) == ""
    inbox.put("ann", b"first")
    inbox.put("ann", b"second")
    inbox.put("bob", b"only")
    assert inbox.take(6) == [
        ("mallory", b"0"),
        ("ann", b"first"),
        ("bob", b"only"),
        ("mallory", b"1"),
        ("ann", b"second"),
        ("mallory", b"2"),
    ]
    assert len(inbox) == 3997


def test_whoever_was_read_last_waits_for_the_others_also_in_the_next_batch() -> None:
    inbox = Inbox()
    for number in range(3):
        inbox.put("mallory", b"%d" % number)
    assert inbox.take(1) == [("mallory", b"0")]
    inbox.put("ann", b"x")
    inbox.put("mallory", b"9")
    assert [sender for sender, _ in inbox.take(2)] == ["mallory", "ann"]
    inbox.put("bob", b"y")
    assert [sender for sender, _ in inbox.take(2)] == ["mallory", "bob"]


def test_the_frames_of_a_sender_keep_their_order_and_each_is_there_once() -> None:
    inbox = Inbox()
    sent = [b"%d" % number for number in range(100)]
    assert {inbox.put("ann", data) for data in sent} == {""}
    assert {inbox.put("ann", data) for data in sent} == {"replayed"}
    assert [data for _, data in inbox.take(1000)] == sent
    assert len(inbox) == 0
    assert inbox.take(10) == []
    assert inbox.put("ann", sent[0]) == ""


def test_one_sender_fills_half_of_the_frames_and_of_the_bytes_and_all_together_no_more_than_there_is() -> (
    None
):
    inbox = Inbox()
    found = [inbox.put("mallory", b"%d" % number) for number in range(MAX_FRAMES)]
    assert found.count("overflow") == MAX_FRAMES // 2
    assert inbox.put("ann", b"x") == ""
    full = Inbox()
    piece = MAX_BYTES // 16
    assert [full.put("mallory", bytes([n]) * piece) for n in range(9)] == [""] * 8 + ["overflow"]
    assert [full.put("eve", bytes([n]) * piece) for n in range(9)] == [""] * 8 + ["overflow"]
    assert full.put("ann", b"x") == "overflow"
    full.take(1)
    assert full.put("ann", b"x") == ""
