"""The presence board: what a daemon says of itself, and what it does about what is said under its name."""

from __future__ import annotations

from fedjob.messaging.transport.presence import PresenceBoard


def make(wall: float = 100.0) -> PresenceBoard:
    return PresenceBoard(wall=lambda: wall)


def test_a_will_that_comes_late_is_answered_and_ones_own_word_is_not() -> None:
    board = make()
    assert board.take_own(board.announcement(present=False)) is True
    assert board.take_own(board.announcement(present=True)) is False
    assert board.take_own(make().announcement(present=False)) is True  # of an earlier process
    assert board.twin_seen == 0.0


def test_a_second_daemon_is_noticed_by_both_and_they_do_not_answer_each_other_for_ever() -> None:
    first, second = make(), make()
    said = [(first, second.announcement(present=True))]
    count = 0
    while said:
        board, payload = said.pop()
        count += 1
        if board.take_own(payload):
            other = second if board is first else first
            said.append((other, board.announcement(present=True)))
    assert count <= 4
    assert (first.twin_seen, second.twin_seen) == (100.0, 100.0)


def test_who_answers_counts_as_present_until_it_says_otherwise() -> None:
    board = make()
    board.note("a")
    assert board.parties() == {"a": True}
    board.take("a", b"0 abc")
    assert board.parties() == {"a": False}


def test_others_see_who_is_there_by_the_first_word_and_odd_bytes_are_nobody() -> None:
    board = make()
    board.take("a", b"1 abc")
    board.take("b", b"0 abc")
    board.take("c", b"")
    board.take("d", b"\xff\x00")
    assert board.parties() == {"a": True, "b": False, "c": False, "d": False}
    assert board.take_own(b"\xff\x00") is True  # whatever it is, it does not say that this daemon is there
