"""Plan text that does not read as it runs is refused before anything else looks at it."""

from __future__ import annotations

import pytest

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.compilation import compile_text
from fedjob.training_plans.source.text_checks import MAX_PLAN_BYTES, check_plan_text, decode_plan

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ZERO_WIDTH = (
    "\u00ad\u034f\u115f\u1160\u17b4\u180b\u180e\u200b\u200c\u200d\u2060\u2061\u2800\u3164\ufeff\uffa0"
)
SELECTORS = "\ufe00\ufe0f\U000e0001\U000e0041\U000e007f\U000e0100\U000e01ef"
CONTROLS = "\x00\x01\x07\x08\x0b\x0c\r\x1a\x1b\x7f\x85\x9b"
SEPARATORS = "\u2028\u2029"
OTHERS = "\ue000\uf8ff\U000f0000\ufdd0\uffff\U0001fffe"


@pytest.mark.parametrize("char", BIDI + ZERO_WIDTH + SELECTORS + CONTROLS + SEPARATORS + OTHERS, ids=ascii)
@pytest.mark.parametrize("line", ["# a comment{}", "text = 'a{}b'"], ids=["comment", "string"])
def test_a_character_that_hides_or_turns_text_is_refused(char: str, line: str) -> None:
    text = "import torch\n" + line.format(char) + "\n"
    with pytest.raises(PlanError):
        check_plan_text(text)
    with pytest.raises(PlanError):
        compile_text(text, "text")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa = 1\n",
        "a = 1\n".encode("utf-16"),
        "a = 1\n".encode("utf-16-le"),
        "a = 1\n".encode("utf-32"),
        b"a = '\xe9'\n",
        b"a = '\xff\xfe'\n",
        b"a = '\xc0\x80'\n",
        b"a = '\xed\xa0\x80'\n",
        b"# -*- coding: latin-1 -*-\na = 1\n",
        b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\na = 1\n",
        b"# coding=utf-7\na = 1\n",
        b"# coding: rot13\na = 1\n",
        b"# coding: raw_unicode_escape\na = 1\n",
        b"a = 1\x00\n",
    ],
)
def test_bytes_that_are_not_plain_utf8_are_refused(data: bytes) -> None:
    with pytest.raises(PlanError):
        decode_plan(data)
    with pytest.raises(PlanError):
        check_plan_text(data)


@pytest.mark.parametrize(
    "text",
    [
        "\ufb01t = 1\n",  # a ligature that Python reads as fi
        "\uff45val = print\n",  # a full-width e
        "def \U0001d41f(): pass\n",  # a bold f
        "x\u00b2 = 1\n",
        "\u212b = 1\n",  # the sign of the angstrom
        "class A:\n    \u017fecret = 1\n",  # a long s
        "p\u0430ss_ = 1\n",  # a Cyrillic a between Latin letters
        "def tr\u0430in(): pass\n",
    ],
    ids=ascii,
)
def test_a_name_that_reads_as_another_one_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        check_plan_text(text)


def test_lines_and_texts_beyond_the_limits_are_refused() -> None:
    with pytest.raises(PlanError, match="line 2 of the plan has 1005 characters"):
        check_plan_text("a = 1\n" + "b = " + "1" * 1001 + "\n")
    with pytest.raises(PlanError, match="bytes"):
        check_plan_text("a = 1\n" * (MAX_PLAN_BYTES // 6 + 1))


def test_the_message_names_line_column_and_character() -> None:
    with pytest.raises(PlanError, match=r"line 2 .*U\+202E, in column 3"):
        check_plan_text("a = 1\n# \u202e\n")


@pytest.mark.parametrize(
    "text",
    [
        "a = 'Hôpital Saint-Étienne, 漢字, שלום'  # naïve façade\n",
        "σ_max, Δ_x, λ2 = 1, 2, 'été'\n",
        "class A:\n\tx = 1\n",
        "",
        "# coding: utf-8\na = 1\n",
    ],
)
def test_honest_text_in_any_language_passes(text: str) -> None:
    assert check_plan_text(text) == text


def test_line_ends_of_other_systems_become_plain_ones() -> None:
    assert decode_plan(b"a = 1\r\nb = 2\r\n") == "a = 1\nb = 2\n"
