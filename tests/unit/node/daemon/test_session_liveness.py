from __future__ import annotations

from fedjob.node.daemon.session_liveness import SessionLiveness


def test_who_is_silent_is_asked_once_and_then_gone() -> None:
    liveness = SessionLiveness()
    look = lambda now, connected=True: liveness.look(["s"], now, after_s=30.0, connected=connected)  # noqa: E731
    assert look(0.0) == ([], [])
    assert look(11.0) == ([], ["s"])
    assert look(20.0) == ([], [])
    assert look(31.0) == (["s"], [])


def test_an_answer_begins_the_wait_anew_and_a_break_of_ones_own_does_not_count() -> None:
    liveness = SessionLiveness()
    look = lambda now, connected=True: liveness.look(["s"], now, after_s=30.0, connected=connected)  # noqa: E731
    look(0.0)
    look(29.0)
    liveness.note_alive("s", 29.5)
    assert look(35.0) == ([], [])
    assert look(100.0, connected=False) == ([], [])
    assert look(105.0) == ([], [])
    assert look(111.0) == ([], ["s"])


def test_only_those_who_wait_are_remembered() -> None:
    liveness = SessionLiveness()
    liveness.note_alive("stranger", 1.0)
    liveness.look(["s"], 1.0, after_s=30.0, connected=True)
    assert liveness.look([], 99.0, after_s=30.0, connected=True) == ([], [])
    assert liveness.look(["s"], 99.0, after_s=30.0, connected=True) == ([], []), "its wait begins anew"


def test_a_session_that_receipts_the_question_is_there_and_one_that_does_not_is_gone() -> None:
    for is_there, gone in ((True, []), (False, ["ann/s1"])):
        liveness = SessionLiveness()
        liveness.look(["ann/s1"], 0.0, after_s=30.0, connected=True)
        assert liveness.look(["ann/s1"], 20.0, after_s=30.0, connected=True) == ([], ["ann/s1"])
        liveness.note_question("message", "ann/s1")
        liveness.close_question("another", 20.0, is_there=True)
        liveness.close_question("message", 20.0, is_there=is_there)
        assert liveness.look(["ann/s1"], 31.0, after_s=30.0, connected=True)[0] == gone
