"""Every reason that a job can end with has a meaning, and no meaning lacks a word that somebody uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedjob.common import errors
from fedjob.common.reasons import REASONS

SOURCES = Path(errors.__file__).parents[1]

OF_VERBS = {
    "ambiguous_job",
    "audit",
    "breakpoint",
    "illegal_transition",
    "job",
    "no_reply",
    "no_such_job",
    "not_allowed",
    "not_finished",
    "not_ready",
    "policy",
    "record",
    "round",
    "submit",
    "token_conflict",
    "token_deleted",
    "transport",
    "wait_timeout",
    "wire",
    "wrong_result",
}
"""What a verb answers with, or what only stands above others: no job ends with it."""


def test_what_an_error_brings_along_has_a_meaning() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    words = {kind.reason for kind in kinds if issubclass(kind, errors.FedjobError)}
    assert words - OF_VERBS <= REASONS.keys()


def test_every_word_is_used_outside_the_map() -> None:
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py") if path.name != "reasons.py"
    )
    unused = [word for word in REASONS if not re.search(rf'["\'`]{word}\b', text)]
    assert unused == []


@pytest.mark.feature("TB-61")
def test_every_reason_is_produced_by_a_test() -> None:
    """A test names the word itself, or the error that brings it along."""
    kinds: dict[str, list[str]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.FedjobError) and "reason" in vars(kind):
            kinds.setdefault(kind.reason, []).append(name)
    here = Path(__file__)
    tests = "\n".join(
        path.read_text(encoding="utf-8") for path in here.parents[2].rglob("test_*.py") if path != here
    )
    unreached = [
        word
        for word in REASONS
        if not re.search(
            "|".join([rf"""["' {{]{word}["':]""", *(rf"\b{name}\b" for name in kinds.get(word, ()))]), tests
        )
    ]
    assert unreached == []


def test_words_are_words_and_meanings_are_short() -> None:
    for word, meaning in REASONS.items():
        assert re.fullmatch(r"[a-z][a-z_]*", word)
        assert 0 < len(meaning) <= 100
