"""Parameters that came attached to tasks, in a node's database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fedjob.node.storage.attached import AttachedParams
from fedjob.node.storage.database import Database

A, B, C = (letter * 64 for letter in "abc")


def names(database: Database) -> set[str]:
    return {row["sha256"] for row in database.rows("SELECT sha256 FROM attached")}


def test_they_are_there_after_a_restart_and_go_when_no_task_needs_them(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    held = AttachedParams(database)
    with database.transaction():
        held.add({A: b"one", B: b"two"})
        held.add({A: b"one"})
    database.close()
    database = Database(tmp_path / "node.sqlite")
    held = AttachedParams(database)
    assert held.of([A, B, C]) == {A: b"one", B: b"two"}
    assert not held.unflushed()
    held.keep({B, C})
    assert held.unflushed()
    with database.transaction():
        held.add({C: b"three"})
    assert names(database) == {B, C}
    assert held.of([A, B, C]) == {B: b"two", C: b"three"}


def test_what_was_let_go_of_and_comes_again_stays(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    held = AttachedParams(database)
    with database.transaction():
        held.add({A: b"one"})
    held.keep(set())
    with database.transaction():
        held.add({A: b"one"})
    assert held.of([A]) == {A: b"one"}
    held.keep({A})
    assert not held.unflushed()


def broken(database: Database, held: AttachedParams) -> None:
    with database.transaction():
        held.add({B: b"two"})
        raise sqlite3.OperationalError("disk full")


def test_a_commit_that_failed_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    held = AttachedParams(database)
    with database.transaction():
        held.add({A: b"one"})
    held.keep(set())
    with pytest.raises(sqlite3.OperationalError):
        broken(database, held)
    assert held.of([A, B]) == {A: b"one"}, "neither was deleted nor added"
    held.keep(set())
    with database.transaction():
        held.flush()
    assert names(database) == set()
