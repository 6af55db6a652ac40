from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import AuditBroken
from fedjob.identity.keys import Identity
from fedjob.node.storage.audit import FIRST, Audit, AuditRecord, check_chain, hash_record, record_of
from fedjob.node.storage.database import Database
from tests.unit.identity.test_audit_heads import held

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
        assert audit.verify(hashes=[record.hash]) == NUM_RECORDS
    assert audit.verify(hashes=[FIRST]) == NUM_RECORDS
    with pytest.raises(AuditBroken, match="the chain was written anew"):
        audit.verify(hashes=["ab" * 32])


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
        audit.verify(hashes=[noted])


def test_a_record_goes_through_its_plain_form_unchanged(database: Database) -> None:
    records = list(Audit(database).records())
    through = [record_of(json.loads(json.dumps(record.to_plain()))) for record in records]
    assert through == records
    assert check_chain(through) == (NUM_RECORDS, records[-1].hash)
    with pytest.raises(AuditBroken, match="expected a record of an audit log"):
        record_of({"seq": 1})


def chained(contents: Iterable[AuditRecord]) -> list[AuditRecord]:
    """Return records with these contents, whose numbers and hashes are right."""
    found: list[AuditRecord] = []
    before = FIRST
    for seq, content in enumerate(contents, start=1):
        before = hash_record(before, seq, content.at, content.kind, content.subject, content.body)
        found.append(replace(content, seq=seq, hash=before))
    return found


def made_chain(length: int, salt: str) -> list[AuditRecord]:
    return chained(
        AuditRecord(0, 1.7e9 + number, "task", f"{salt}{number}", json.dumps({"state": "running"}), "")
        for number in range(length)
    )


def edited(chain: list[AuditRecord], rng: random.Random) -> list[AuditRecord]:
    """Return a chain as somebody could leave it who can write every file of the node."""
    at = rng.randrange(len(chain))
    other = rng.randrange(len(chain))
    record = chain[at]
    changed = rng.choice(
        [
            replace(record, at=record.at + rng.choice([-1.0, 1e-6, 60.0])),
            replace(record, kind="grant"),
            replace(record, subject=record.subject + "x"),
            replace(record, body=record.body.replace("running", "failed")),
        ]
    )
    fresh = AuditRecord(0, 1.7e9, "grant", "put in", "{}", "")
    without = chain[:at] + chain[at + 1 :]
    with_it = [*chain[:at], fresh, *chain[at:]]
    swapped = list(chain)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    edits: dict[str, Callable[[], list[AuditRecord]]] = {
        "a record is changed": lambda: [*chain[:at], changed, *chain[at + 1 :]],
        "a record is changed, and all after it hashed anew": lambda: chained(
            [*chain[:at], changed, *chain[at + 1 :]]
        ),
        "a hash is changed": lambda: [
            *chain[:at],
            replace(record, hash=chain[other - 1].hash),
            *chain[at + 1 :],
        ],
        "a record is deleted": lambda: without,
        "a record is deleted, and all after it hashed anew": lambda: chained(without),
        "a record is put in": lambda: with_it,
        "a record is put in, and all after it hashed anew": lambda: chained(with_it),
        "records change places": lambda: swapped,
        "records change places, and all are hashed anew": lambda: chained(swapped),
        "the tail is cut off": lambda: chain[:at],
        "the tail is replaced": lambda: chained([*chain[:at], *made_chain(len(chain) - at, "new")]),
        "the chain begins anew": lambda: chained([fresh]),
        "everything is deleted": list,
        "another node's chain": lambda: made_chain(len(chain), "other"),
        "another node's chain, which is longer": lambda: made_chain(len(chain) + 5, "other"),
        "a record is there twice": lambda: [*chain[:at], record, record, *chain[at + 1 :]],
    }
    return edits[rng.choice(list(edits))]()


NUM_EDITS = 10_000


def test_of_ten_thousand_edits_of_a_chain_all_are_found_by_heads_that_others_hold() -> None:
    rng = random.Random(11)
    chain = made_chain(12, "clinic")
    clinic = Identity.generate("clinic")
    heads = [held(clinic, record.seq, record.hash) for record in chain]
    num_edits = num_found = 0
    while num_edits < NUM_EDITS:
        given = edited(chain, rng)
        if given == chain:  # two equal places were exchanged, or a record was replaced by itself
            continue
        num_edits += 1
        # what researchers hold: some of the heads, the newest one among them
        some = [*rng.sample(heads, rng.randrange(4)), heads[-1]]
        try:
            check_chain(given, heads=some)
        except AuditBroken:
            num_found += 1
    assert num_found == NUM_EDITS


def test_one_old_head_finds_what_was_changed_before_it_and_lets_the_chain_grow() -> None:
    chain = made_chain(20, "clinic")
    head = held(Identity.generate("clinic"), 12, chain[11].hash)
    for length in range(12, 21):
        assert check_chain(chain[:length], heads=[head])[0] == length
    with pytest.raises(
        AuditBroken, match="record 12 is missing: the chain has 11 records, and the head of record 12"
    ):
        check_chain(chain[:11], heads=[head])
    rewritten = chained([*chain[:4], replace(chain[4], subject="another"), *chain[5:]])
    with pytest.raises(
        AuditBroken, match="audit record 12 is not the one whose head was given away on 2023-11-14T"
    ):
        check_chain(rewritten, heads=[head])


def test_a_full_disk_leaves_no_gap_neither_change_nor_record_is_written(database: Database) -> None:
    audit = Audit(database)
    (pages,) = database.rows("PRAGMA page_count")[0]
    database.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(10_000):
            with database.transaction():
                database.execute("INSERT INTO seen VALUES (?, 1.0)", (f"{number:0200}",))
                audit.add("task", f"t{number}", {"state": "running", "words": "x" * 400})

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    num_changes = database.rows("SELECT count(*) AS n FROM seen")[0]["n"]
    assert audit.verify() == NUM_RECORDS + num_changes
    database.execute("PRAGMA max_page_count = 1000000")
    audit.add("task", "after", {"state": "completed"})
    assert audit.verify() == NUM_RECORDS + num_changes + 1
