"""Tables as aligned text, Markdown and LaTeX, and what their cells become."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fedjob.common.notebooks.plain_tables import (
    Figure,
    cell_text,
    is_numeric,
    latex_table,
    markdown_table,
    number_text,
    text_facts,
    text_table,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.85123, "0.8512"),
        (1234.567, "1235"),
        (123456.7, "123456.7"),
        (3.1e-7, "3.10e-07"),
        (1e12, "1.00e+12"),
        (-2.5, "-2.500"),
        (0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "-∞"),
    ],
)
def test_a_number_has_four_digits_that_mean_something(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (np.bool_(False), "False"),
        (12, "12"),
        (np.int64(12), "12"),
        (1234567, "1 234 567"),
        (np.float32(0.5), "0.5000"),
        ((1, "a"), "1, a"),
        ({"a": 1}, "a: 1"),
        (Decimal("1.5"), "1.5"),
        ("a\x1b[2J\nb", "a [2J b"),
    ],
)
def test_cells_are_words(value: Any, text: str) -> None:
    assert cell_text(value) == text


def test_numbers_stand_right_and_words_left() -> None:
    rows = [("age", 1.5, None), ("cholesterol", -22.25, Figure("<0.001"))]
    assert text_table(("term", "coef", "p"), rows).splitlines() == [
        "term           coef       p",
        "age           1.500",
        "cholesterol  -22.25  <0.001",
    ]
    assert is_numeric(Figure("x"))
    assert not is_numeric("1")
    assert not is_numeric(True)


def test_long_cells_are_cut() -> None:
    assert len(text_table(("a",), [("x" * 500,)]).splitlines()[1]) == 60


def test_facts_stand_below_each_other() -> None:
    assert (
        text_facts({"rows": 400, "log-likelihood": -238.93}) == "rows            400\nlog-likelihood  -238.9"
    )
    assert text_facts({}) == ""


def test_markdown_keeps_its_columns_whatever_cells_hold() -> None:
    lines = markdown_table(("a|b", "c"), [("x|y", "<b>")]).splitlines()
    assert lines == ["| a\\|b | c |", "| --- | --- |", "| x\\|y | &lt;b> |"]


def test_latex_escapes_what_it_would_obey() -> None:
    text = latex_table(("P>|z|", "[0.025"), [("100 % of $x_1$ & \\input{a}", 1.5)])
    assert text.splitlines()[0] == "\\begin{tabular}{lr}"
    assert "P$>$$|$z$|$ & {[}0.025 \\\\" in text
    assert "100 \\% of \\$x\\_1\\$ \\& \\textbackslash{}input\\{a\\}" in text
