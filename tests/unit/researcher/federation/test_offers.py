"""The answers of nodes to an offer, as they are shown."""

from __future__ import annotations

from dataclasses import replace

from fedjob.researcher.federation.offers import Checks, NodeAnswer


def answers(number: int) -> list[NodeAnswer]:
    return [
        NodeAnswer(node=f"node-{n:04d}", dataset="rows", grant="not-needed", limits={}) for n in range(number)
    ]


def test_of_very_many_nodes_those_with_the_same_answer_share_a_row() -> None:
    found = answers(3000)
    found[7] = replace(found[7], grant="rejected", note="not for this")
    checks = Checks(found)
    lines = repr(checks).splitlines()
    assert len(lines) == 3, "the names of the columns, and a row for each kind of answer"
    assert lines[1].startswith("node-0000, node-0001 and 2997 more  rows")
    assert lines[2].startswith("node-0007  ")
    assert len(checks._repr_html_()) < 8000
    assert len(checks) == 3000
    assert not checks.ok


def test_of_a_few_nodes_each_has_a_row() -> None:
    assert len(repr(Checks(answers(20))).splitlines()) == 21
