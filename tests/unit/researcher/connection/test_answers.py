"""Which of the messages that come in while a question is open say that nodes are still answering."""

from __future__ import annotations

from fedjob.messaging.messages import Body, Event, Message, Pong
from fedjob.researcher.connection.connection import _take_answers


def message(sender: str, body: Body) -> Message:
    return Message(to="lab/s", id="0" * 32, body=body, sender=sender)


def test_late_answers_to_an_earlier_question_say_that_nodes_are_at_it_once_for_each() -> None:
    answers: dict[str, Message] = {}
    late: set[str] = set()
    assert _take_answers([message("a", Pong(of="before"))], {"now"}, answers, late)
    assert not _take_answers([message("a", Pong(of="before"))] * 3, {"now"}, answers, late)
    assert answers == {}
    assert _take_answers([message("b", Pong(of="before"))], {"now"}, answers, late)
    assert _take_answers([message("a", Pong(of="now"))], {"now"}, answers, late)
    assert set(answers) == {"a"}
    assert not _take_answers([message("a", Pong(of="now"))], {"now"}, answers, late)


def test_what_is_no_answer_keeps_nobody_waiting() -> None:
    answers: dict[str, Message] = {}
    late: set[str] = set()
    assert not _take_answers([message("a", Event(type="log", data={}))], {"now"}, answers, late)
    assert not _take_answers([], {"now"}, answers, late)
    assert (answers, late) == ({}, set())
