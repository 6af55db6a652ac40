"""The pieces of HTML of notebooks: everything is escaped, tags close, the style touches nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import pytest

from fedjob.common.notebooks import html
from fedjob.common.notebooks.report import Report, ShownTable
from fedjob.common.notebooks.shown_map import ShownMap, ShownRows
from fedjob.messaging.traffic import Tally

ODD = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "</pre><b>",
    "' onmouseover='alert(1)",
    "\x1b[2J\u202e\x00",
    "&lt;b&gt;",
]


class Tags(HTMLParser):
    """The tags of a text and their attributes; all that open have to close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(odd: str) -> list[str]:
    report = Report(
        title=odd,
        facts={odd: odd, "list": [odd], "map": {odd: odd}},
        tables=[ShownTable(name=odd, header=(odd, "n"), rows=((odd, 1), (odd, 2.5)))],
        about=odd,
    )
    return [
        html.panel(odd, html.facts({odd: odd}), html.note(odd), html.preformatted(odd), aside=odd),
        html.panel("", html.table((odd,), [(odd,)] * 100, caption=odd)),
        html.panel("", html.bar(0.5, odd), html.chip(odd), html.joined(odd, html.chip(odd))),
        report._repr_html_(),
        ShownMap({odd: odd}, (odd, odd))._repr_html_(),
    ]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_whatever_is_shown_is_text(odd: str) -> None:
    for text in shown(odd):
        tags = Tags(text)
        assert not {"script", "img", "b"} & tags.found
        assert not any(name.startswith("on") for name in tags.attributes)
        assert not set(text) & {"\x1b", "\u202e", "\x00"} or "<pre>" in text


def test_every_rule_of_the_style_is_for_fedjobs_own_outputs() -> None:
    style = html.STYLE.removeprefix("<style>").removesuffix("</style>")
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", style)
    assert len(rules) > 15
    for selectors in rules:
        for selector in selectors.split(","):
            assert ".fedjob" in selector, selector


def test_light_and_dark_are_those_of_the_browser_and_of_jupyterlab() -> None:
    assert "prefers-color-scheme:dark" in html.STYLE
    assert '[data-jp-theme-light="true"]' in html.STYLE
    assert '[data-jp-theme-light="false"]' in html.STYLE
    assert "http" not in html.STYLE
    assert "url(" not in html.STYLE


def test_numbers_stand_to_the_right() -> None:
    drawn = html.table(("name", "n"), [("a", 1), ("b", None)])
    assert '<th class="fj-n">n</th>' in drawn
    assert f"<th{html.LEFT}>name</th>" in drawn


def test_a_long_table_says_how_many_rows_it_leaves_out() -> None:
    drawn = html.table(("n",), [(i,) for i in range(1000)])
    assert drawn.count("<tr>") == 1 + html.MAX_ROWS
    assert "941 rows are not shown" in drawn
    assert '<td class="fj-n">999</td>' in drawn


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 0.5, 7.0, float("nan"), float("inf")])
def test_a_bar_is_never_longer_than_its_place(fraction: float) -> None:
    width = re.search(r"width:(\d+)%", html.bar(fraction))
    assert width is not None
    assert 0 <= int(width[1]) <= 100


@dataclass(frozen=True)
class Count:
    kind: str
    bytes: int


def test_a_time_among_records_reads_as_a_time() -> None:
    (line,) = repr(ShownRows((Tally(direction="in", kind="task", first=1.8e9, last=1.8e9),))).splitlines()[1:]
    assert len(re.findall(r"2027-01-1\d \d\d:\d\d", line)) == 2
    assert "2027-01-1" in ShownRows((Tally(direction="in", kind="task", first=1.8e9),))._repr_html_()


def test_records_stay_a_tuple_and_read_as_a_table() -> None:
    found = ShownRows((Count("task", 12), Count("object", 3)))
    assert found == (Count("task", 12), Count("object", 3))
    assert repr(found).splitlines() == ["kind    bytes", "task       12", "object      3"]
    assert '<td class="fj-n">12</td>' in found._repr_html_()
    assert repr(ShownRows(())) == "(none)"


def test_a_map_stays_a_dict() -> None:
    found = ShownMap({"a": "1"}, ("node", "request"))
    assert found == {"a": "1"}
    assert repr(found) == "{'a': '1'}"


def test_short_words_stay_on_a_line_and_every_word_is_to_the_left_without_a_style_sheet() -> None:
    long = "a remark of an owner that goes on and on and on"
    drawn = html.table(("node", "remark", "n"), [("clinic-1", long, 1), ("clinic-2", "", 2)])
    assert f'<td class="fj-s"{html.LEFT}>clinic-1</td>' in drawn
    assert f"<td{html.LEFT}>{long}</td>" in drawn
    assert 'td class="fj-n">1<' in drawn
    assert f"<td{html.LEFT}>9</td>" in html.facts({"rows": 9})


def test_without_a_style_sheet_a_title_and_what_is_beside_it_are_two_words() -> None:
    assert "digits <small>fedavg</small>" in html.panel("digits", aside="fedavg")


def test_of_a_long_text_the_end_can_be_seen_where_that_is_wanted() -> None:
    assert html.preformatted("last", from_end=True) == '<pre class="fj-tail">last</pre>'
    assert html.preformatted("last") == "<pre>last</pre>"
    assert ".fj-tail{display:flex;flex-direction:column-reverse}" in html.STYLE
