"""Every reason that a job can end with has a meaning, and no meaning lacks a word that somebody uses."""

from __future__ import annotations

import re
from pathlib import Path

from fedjob.common import errors
from fedjob.common.reasons import REASONS

SOURCES = Path(errors.__file__).parents[1]

OF_VERBS = {
    "ambiguous_job",
    "audit",
    "breakpoint",
    "illegal_transition",
    "job",
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


def test_words_are_words_and_meanings_are_short() -> None:
    for word, meaning in REASONS.items():
        assert re.fullmatch(r"[a-z][a-z_]*", word)
        assert 0 < len(meaning) <= 100
