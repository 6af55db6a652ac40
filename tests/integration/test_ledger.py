"""The hub's ledger: commits of several, failures of one, two processes at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError, NotPermitted, RepositoryError
from fedjob.hub.storage.database import SCHEMA_VERSION, HubDatabase


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[HubDatabase]:
    ledger = HubDatabase(tmp_path / "hub.sqlite")
    yield ledger
    ledger.close()


def add(name: str, value: str = "x") -> object:
    return lambda db: db.execute("INSERT INTO facts VALUES (?, ?)", (name, value)).rowcount


def names(ledger: HubDatabase) -> set[str]:
    return {row[0] for row in ledger.read("SELECT key FROM facts")}


def test_what_fails_undoes_itself_and_nothing_else(ledger: HubDatabase) -> None:
    gate = threading.Event()
    ledger.submit(lambda db: gate.wait(10))  # so that the rest is committed together

    def fails(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO facts VALUES ('half', 'x')")
        raise NotPermitted("no")

    first = ledger.submit(add("first"))  # type: ignore[arg-type]
    bad = ledger.submit(fails)
    broken = ledger.submit(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
    last = ledger.submit(add("last"))  # type: ignore[arg-type]
    gate.set()
    assert first.result(10) == last.result(10) == 1
    with pytest.raises(NotPermitted):
        bad.result(10)
    with pytest.raises(RepositoryError, match="nowhere"):
        broken.result(10)
    assert names(ledger) == {"federation", "first", "last"}


def test_two_processes_write_in_turn_and_see_each_other(ledger: HubDatabase, tmp_path: Path) -> None:
    other = HubDatabase(tmp_path / "hub.sqlite")
    try:
        seen = ledger.version()
        futures = [(ledger, other)[i % 2].submit(add(f"n{i}")) for i in range(60)]  # type: ignore[arg-type]
        assert all(future.result(30) == 1 for future in futures)
        assert names(ledger) == names(other) == {"federation", *(f"n{i}" for i in range(60))}
        assert other.federation == ledger.federation
        assert ledger.version() != seen
    finally:
        other.close()


def test_closing_finishes_what_waits(tmp_path: Path) -> None:
    ledger = HubDatabase(tmp_path / "hub.sqlite")
    futures = [ledger.submit(add(f"n{i}")) for i in range(50)]  # type: ignore[arg-type]
    ledger.close()
    assert all(future.result(0) == 1 for future in futures)


def test_a_ledger_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "junk.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match=r"junk\.sqlite"):
        HubDatabase(tmp_path / "junk.sqlite")
    newer = sqlite3.connect(tmp_path / "newer.sqlite")
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    with pytest.raises(ConfigError, match="newer fedjob"):
        HubDatabase(tmp_path / "newer.sqlite")
    older = sqlite3.connect(tmp_path / "older.sqlite")
    older.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    older.close()
    with pytest.raises(ConfigError, match=r"older fedjob.*let the parties join again"):
        HubDatabase(tmp_path / "older.sqlite")
