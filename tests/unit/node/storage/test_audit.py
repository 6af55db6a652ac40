from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.errors import AuditBroken
from fedjob.node.storage.audit import FIRST, Audit
from fedjob.node.storage.database import Database

NUM_RECORDS = 6


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    audit = Audit(opened)
    for number in range(1, NUM_RECORDS + 1):
        audit.add(
            "grant", f"g{number}", {"status": "granted", "by": "eve", "note": "größer \x1b", "n": number}
        )
    yield opened
    opened.close()


def test_an_untouched_chain_is_whole(database: Database) -> None:
    audit = Audit(database)
    assert audit.verify() == NUM_RECORDS
    for record in audit.records():
        assert audit.verify(record.hash) == NUM_RECORDS
    assert audit.verify(FIRST) == NUM_RECORDS
    with pytest.raises(AuditBroken, match="the chain was written anew"):
        audit.verify("ab" * 32)


def test_an_empty_chain_is_whole(tmp_path: Path) -> None:
    opened = Database(tmp_path / "empty.sqlite")
    assert Audit(opened).verify() == 0
    opened.close()


def test_a_record_lives_and_dies_with_the_change_that_it_tells_of(database: Database) -> None:
    def fail() -> None:
        with database.transaction():
            Audit(database).add("task", "t", {})
            database.execute("INSERT INTO seen VALUES ('a', 1.0)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Audit(database).verify() == NUM_RECORDS


@pytest.mark.feature("TB-85")
@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        ("UPDATE audit SET body = replace(body, 'eve', 'max') WHERE seq = 3", "audit record 3"),
        ("UPDATE audit SET at = at - 60 WHERE seq = 1", "audit record 1"),
        ("UPDATE audit SET kind = 'task' WHERE seq = 6", "audit record 6"),
        ("UPDATE audit SET subject = 'g9' WHERE seq = 2", "audit record 2"),
        ("UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 5) WHERE seq = 4", "audit record 4"),
        ("DELETE FROM audit WHERE seq = 3", "audit record 3 is missing: record 4 follows 2"),
        ("DELETE FROM audit WHERE seq = 1", "audit record 1 is missing: record 2 follows the beginning"),
        ("DELETE FROM audit WHERE seq > 4", "audit record 5 is missing: the chain had 6 records, 4 are left"),
        ("DELETE FROM audit", "audit record 1 is missing"),
        (
            "DELETE FROM audit WHERE seq > 4; UPDATE audit_head SET seq = 4, "
            "hash = (SELECT hash FROM audit WHERE seq = 4)",
            "audit record 5 is missing",  # the file counts its records by itself
        ),
        (
            "INSERT INTO audit SELECT 7, at, kind, subject, body, hash FROM audit WHERE seq = 6",
            "audit record 7",
        ),
        (
            "UPDATE audit SET seq = seq + 10 WHERE seq > 3; UPDATE audit SET seq = seq - 9 WHERE seq > 10; "
            "INSERT INTO audit SELECT 4, at, kind, subject, body, hash FROM audit WHERE seq = 3",
            "audit record 4",
        ),
        (
            "UPDATE audit SET seq = 99 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; "
            "UPDATE audit SET seq = 3 WHERE seq = 99",
            "audit record 2",
        ),
        (
            "UPDATE audit_head SET hash = (SELECT hash FROM audit WHERE seq = 2)",
            "audit record 6 is not the one",
        ),
    ],
)
def test_what_was_done_to_the_chain_is_found_and_the_record_named(
    database: Database, tampering: str, named: str
) -> None:
    for statement in tampering.split("; "):
        database.execute(statement)
    with pytest.raises(AuditBroken) as found:
        Audit(database).verify()
    assert named in str(found.value)


def test_a_chain_that_was_written_anew_lacks_the_head_that_was_noted(database: Database) -> None:
    audit = Audit(database)
    _, noted = audit.head()
    for table in ("audit", "audit_head", "sqlite_sequence"):
        database.execute(f"DELETE FROM {table}")
    for number in range(1, NUM_RECORDS + 1):
        audit.add("grant", f"g{number}", {"status": "granted", "by": "max"})
    assert audit.verify() == NUM_RECORDS
    with pytest.raises(AuditBroken, match="no audit record has the hash"):
        audit.verify(noted)
