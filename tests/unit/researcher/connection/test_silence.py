"""The words for a node that did not answer."""

from __future__ import annotations

from fedjob.researcher.connection.connection import no_answer_text


def test_a_node_that_is_there_and_silent_may_not_be_back_after_an_outage() -> None:
    text = no_answer_text(connected=True, present=True, encrypted=False)
    assert "may not be back yet if the hub was away in the last 60 s" in text
    assert text.index("not be back") < text.index("does it require encryption"), (
        "the likelier cause comes first"
    )
    assert "encryption" not in no_answer_text(connected=True, present=True, encrypted=True)


def test_a_node_without_presence_and_a_side_without_a_connection_are_said_to_be_so() -> None:
    assert (
        no_answer_text(connected=True, present=False, encrypted=False)
        == ", and shows no presence at the broker"
    )
    for present in (True, False):
        assert "this side has no connection" in no_answer_text(
            connected=False, present=present, encrypted=False
        )
