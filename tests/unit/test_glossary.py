"""The words of ours: each is in the glossary, and a page that uses an odd one explains it where it first stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [page for page in sorted(ROOT.glob("docs/*.md")) if page != GLOSSARY]

ODD = {
    "ask": r"\b(?:an|the|every|each|its|one|such|single) [\[*]*ask\b|\bof \[?asks\b",
    "commit": r"\bcommit(?:s|ted)?\b",
    "courier": r"\bcouriers?\b",
    "epoch": r"\b(?:older|newer) \[?epoch\b",
    "fold": r"\bfolds?\b",
    "frame": r"\bframes?\b",
    "gate": r"\bgates?\b",
    "receipt": r"\breceipts?\b",
    "ref": r"\brefs?\b",
    "slot": r"\bslots?\b",
    "spool": r"\bspools?\b",
}
"""Word of the glossary -> how a page uses it in our sense."""
OTHERWISE = {
    "data.md": {"frame"},  # of an image, and a table of pandas
    "functions.md": {"frame"},  # a table of pandas
    "network.md": {"frame", "receipt"},  # of WebSocket and MQTT
    "operations.md": {"commit"},  # of git
    "rabbitmq.md": {"frame"},  # of MQTT
    "results.md": {"frame"},  # a table of pandas
    "secure_aggregation.md": {"commit"},  # to a number, in the sense of cryptography
}
"""Page -> words that mean there what they mean everywhere."""
GONE = (
    r"\bfolded\b",
    r"\bseats?\b",
    r"\bbears? liars\b",
    r"\btold sets\b",
    r"[Vv]erbs are files",
    r"\bno cage\b",
    r"\ba mark of few\b",
    r"\b[Aa] try\b",
    r"\bnext try\b",
)
"""Odd words that have been replaced by plain ones."""


def prose(text: str) -> str:
    """Return a page of the same length in which code, headings and targets of links are blank."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    for pattern in (
        r"(?ms)^```.*?^```",
        r"(?m)^(?: {4}).*$",
        r"(?m)^#.*$",
        r"`[^`\n]*`",
        r"(?<=\])\([^)\s]*\)",
    ):
        text = re.sub(pattern, blank, text)
    return text


def first_use(text: str, word: str) -> re.Match[str] | None:
    """Return where a page first uses an odd word."""
    return re.search(ODD[word], prose(text), re.IGNORECASE)


def words() -> list[str]:
    return re.findall(r"^### (.+)$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_glossary_is_in_alphabetical_order_and_names_each_word_once() -> None:
    assert words() == sorted(set(words()), key=str.lower)
    assert len(words()) > 50


def test_every_word_of_the_glossary_is_explained_in_a_sentence() -> None:
    parts = re.split(r"^### .+$", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [part for part in parts if not re.fullmatch(r"\n\n[A-Z].{30,400}\.\)?\n+", part)] == []


def test_every_odd_word_is_in_the_glossary() -> None:
    assert set(ODD) <= set(words())


def test_the_words_that_stand_beside_those_of_other_frameworks_are_in_the_glossary() -> None:
    table = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").partition("## Glossary")[2]
    ours = re.findall(r"^\| ([a-z ]+?)(?:,| of a node| \(| \|)", table, re.MULTILINE)
    otherwise = {
        "secure aggregation",
        "differential privacy",
        "preprocessing step",
    }  # have pages of their own
    assert set(ours) - {"fedjob"} - otherwise - set(words()) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_odd_word_is_linked_to_the_glossary_where_a_page_first_uses_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    unexplained = [
        f"{page.name}:{text[: found.start()].count(chr(10)) + 1}: link {found[0]!r} to glossary.md#{word}"
        for word in ODD
        if word not in OTHERWISE.get(page.name, ()) and (found := first_use(text, word))
        if not re.match(rf"[\w ]*\]\(glossary\.md#{word}\)", text[found.end() :])
    ]
    assert unexplained == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_no_page_has_an_odd_word_that_is_gone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [pattern for pattern in GONE if re.search(pattern, text)] == []


def test_a_use_in_code_in_a_heading_or_in_an_address_is_none() -> None:
    text = "# A gate\n\n`gate` [x](gate.md)\n\n```text\ngate\n```\n\n    gate\n"
    assert first_use(text, "gate") is None
    found = first_use(text + "\nThe gate opens.", "gate")
    assert found is not None
    assert found.start() == len(text) + 5
