from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError
from fedjob.common.types import Address
from fedjob.messaging.outbox import Outgoing
from fedjob.node.storage.attached import AttachedParams
from fedjob.node.storage.database import Database
from fedjob.node.storage.outbox import DatabaseStore
from fedjob.node.storage.schema import SCHEMA_VERSION


def test_it_is_opened_with_the_settings_that_survive_power_cuts(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
        row = database.row(f"PRAGMA {pragma}")
        assert row is not None
        assert row[0] == value
    with database.transaction(durable=False):
        row = database.row("PRAGMA synchronous")
        assert row is not None
        assert row[0] == 1
    row = database.row("PRAGMA synchronous")
    assert row is not None
    assert row[0] == 2
    database.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")

    def fail() -> None:
        with database.transaction():
            database.execute("INSERT INTO seen VALUES ('a', 1.0)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert database.rows("SELECT * FROM seen") == []
    database.close()


def test_another_connections_writing_is_noticed_once(tmp_path: Path) -> None:
    daemon, command = Database(tmp_path / "node.sqlite"), Database(tmp_path / "node.sqlite")
    daemon.changed()
    assert not daemon.changed()
    with daemon.transaction():
        daemon.execute("INSERT INTO seen VALUES ('own', 1.0)")
    assert not daemon.changed()
    with command.transaction():
        command.execute("INSERT INTO seen VALUES ('a', 1.0)")
    assert daemon.changed()
    assert not daemon.changed()
    daemon.close()
    command.close()


def test_a_newer_or_older_schema_and_a_foreign_file_are_refused_by_name(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "new.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer fedjob"):
        Database(tmp_path / "new.sqlite")
    with sqlite3.connect(tmp_path / "old.sqlite") as connection:
        connection.execute("CREATE TABLE datasets (name TEXT)")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    connection.close()
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"older fedjob \(schema {SCHEMA_VERSION - 1}.*move it away"):
            Database(tmp_path / "old.sqlite")
    with sqlite3.connect(tmp_path / "old.sqlite") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("datasets",)], "as it was"
    connection.close()
    (tmp_path / "foreign.sqlite").write_bytes(b"no database at all, but long enough to be read as one" * 99)
    with pytest.raises(ConfigError, match=r"foreign\.sqlite"):
        Database(tmp_path / "foreign.sqlite")


def test_outbox_and_seen_ids_are_there_after_a_restart(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    store = DatabaseStore(database, AttachedParams(database))
    letters = [
        Outgoing("b" * 32, Address("ann", "s1"), b"1", 10.0, job="job", task="t"),
        Outgoing("a" * 32, None, b"2", 11.0),
    ]
    for letter in letters:
        store.add(letter)
        store.add(letter)
    store.mark_seen({"ann/1": 5.0})
    database.close()

    database = Database(tmp_path / "node.sqlite")
    store = DatabaseStore(database, AttachedParams(database))
    assert store.outgoing() == letters
    assert store.seen("ann/1")
    assert not store.seen("bob/1")
    store.drop(["b" * 32, "nothing"])
    assert store.outgoing() == letters[1:]


def test_parameters_that_are_attached_to_an_answer_are_in_the_database_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    attached = AttachedParams(database)
    store = DatabaseStore(database, attached)
    content, other = bytes(range(256)) * 160, b"other" * 100
    answer = Outgoing(
        "a" * 32, Address("ann", "s1"), b"head" + content + b"tail", 10.0, attached_bytes=len(content)
    )
    apart = replace(answer, id="b" * 32, payload=b"head" + content[1:] + b"tail")
    plain = replace(answer, id="c" * 32, attached_bytes=0)
    with database.transaction():
        attached.add({"1" * 64: content, "2" * 64: other})
        assert attached.of(["2" * 64, "1" * 64]) == {"1" * 64: content, "2" * 64: other}
        for outgoing in (answer, apart, plain):
            store.add(outgoing)
    rows = database.rows("SELECT length(payload) AS n FROM outbox ORDER BY seq")
    assert [row["n"] for row in rows] == [8, len(apart.payload), len(plain.payload)]
    database.close()
    database = Database(tmp_path / "node.sqlite")
    attached = AttachedParams(database)
    store = DatabaseStore(database, attached)
    assert [outgoing.payload for outgoing in store.outgoing()] == [
        answer.payload,
        apart.payload,
        plain.payload,
    ]
    attached.keep({"2" * 64})
    with database.transaction():
        attached.flush()
    assert [outgoing.id for outgoing in store.outgoing()] == [apart.id, plain.id], "its task was released"


def test_expired_seen_ids_go_in_time(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    store = DatabaseStore(database, AttachedParams(database))
    store.mark_seen({f"ann/{n}": 1.0 for n in range(400)})
    store.mark_seen({"ann/new": 9e9})
    assert database.row("SELECT count(*) FROM seen")["count(*)"] < 300  # type: ignore[index]
    assert store.seen("ann/new")
