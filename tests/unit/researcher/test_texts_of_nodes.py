"""What a node wrote can't steer the terminal or the notebook of whoever looks at a job: errors, results, participation."""

from __future__ import annotations

import pandas
import pytest

from fedjob.common.errors import FedjobError, JobFailed, KernelRefused, NodeFailure, SpecError
from fedjob.researcher.monitoring.diagnosis import Why
from fedjob.researcher.monitoring.participation import NodeParticipation, Participation
from fedjob.researcher.results.result_summary import report_of
from fedjob.researcher.results.table import ResultTable
from fedjob.researcher.results.training_replies import Replies, TrainingReply

ODD = {
    "colours": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "one byte": "\x9b31m",
    "overwrites": "all is well\r  not so",
    "backwards": "\u202egnp.exe",
    "erases": "abc\b\b\b",
    "nul": "a\0b",
}


def steers(text: str) -> bool:
    return not all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_error_steers_a_terminal_whatever_it_quotes(odd: str) -> None:
    for error in (
        FedjobError(odd),
        SpecError(f"a\n{odd}"),
        NodeFailure("node", "exception", odd),
        JobFailed(odd),
        KernelRefused(1, odd),
    ):
        assert not steers(str(error))
    assert str(SpecError("two\nlines")) == "two\nlines"


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_result_steers_a_terminal_whatever_nodes_returned(odd: str) -> None:
    frame = pandas.DataFrame({"label": [odd], odd: [1.0]})
    report = report_of(
        {"categories": frame, odd: [odd], "n": 1, "each": {odd: odd, "b": 1}}, "statistics", {}, odd
    )
    for text in (str(report), report._repr_html_(), report.to_markdown(), report.to_latex()):
        assert not steers(text)
    shown = ResultTable(frame)
    assert not steers(repr(shown))
    assert "<b>" not in ResultTable(pandas.DataFrame({"<b>": ["<b>"]}))._repr_html_()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_line_about_nodes_steers_a_terminal_whatever_they_answered(odd: str) -> None:
    assert not steers(str(Why(state="running", gate="nodes", lines=(odd, odd))))
    replies = Replies([TrainingReply(success=False, msg=odd, dataset_id="d", node_id="a")])
    assert not steers(repr(replies))
    parts = Participation(parts=(NodeParticipation(node="a", reason=odd),), num_rounds=1)
    assert not steers(str(parts))
    assert not any(map(steers, parts.lines()))
