"""The list of parties as a hub sends it: all, or what has changed since a mark."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.party_rows import PartyRows
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Parties
from tests.hubs import keys_of


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    ledger = HubDatabase(tmp_path / "hub.sqlite")
    yield Parties(ledger, HubLimits())
    ledger.close()


def _join(parties: Parties, *names: str) -> None:
    for name in names:
        parties.enrol(
            name, "node", keys_of(name), secrets.token_hex(32), code=None, invited_only=False
        )  # fmt: skip


def _answer(rows: PartyRows, after: str = "") -> tuple[str, dict[str, bool]]:
    mark, body = rows.answer(after)
    return mark, {row["party"]: row["revoked"] for row in json.loads(body)}


def test_who_shows_a_mark_gets_what_has_changed_since_and_nothing_else(parties: Parties) -> None:
    rows = PartyRows(parties)
    _join(parties, "a", "b")
    first, found = _answer(rows)
    assert found == {"a": False, "b": False}
    assert _answer(rows, first) == (first, {})
    _join(parties, "c")
    second, found = _answer(rows, first)
    assert found == {"c": False}
    parties.revoke("a")
    third, found = _answer(rows, second)
    assert found == {"a": True}
    assert _answer(rows, first) == (third, {"a": True, "c": False})
    assert _answer(rows)[1] == {"a": True, "b": False, "c": False}


def test_a_party_that_joins_anew_has_changed(parties: Parties) -> None:
    rows = PartyRows(parties)
    _join(parties, "a", "b")
    mark, _ = _answer(rows)
    code, keys = parties.invite("a", "node"), keys_of("a")
    parties.enrol("a", "node", keys, secrets.token_hex(32), code=code, invited_only=True)
    [row] = json.loads(rows.answer(mark)[1])
    assert row["key"] == keys.signing


def test_a_mark_of_elsewhere_gets_all(parties: Parties) -> None:
    earlier, rows = PartyRows(parties), PartyRows(parties)
    _join(parties, "a", "b")
    mark, _ = _answer(rows)
    of, _, hashed = mark.split("-")
    for other in (
        _answer(earlier)[0],
        f"{of}-2-{hashed}",
        f"{of}-0-{hashed}",
        f"{of}--1-{hashed}",
        f"{of}--{hashed}",
        f"{of}-x-{hashed}",
        f"{of}-\u0661-{hashed}",
        "-1",
        "-",
    ):
        assert len(_answer(rows, other)[1]) == 2, other
