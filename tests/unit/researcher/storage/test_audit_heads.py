"""The heads of nodes' audit chains that a job keeps, and what contradicts them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.identity.audit_heads import HeldHead
from fedjob.identity.keys import Identity
from fedjob.researcher.storage.audit_heads import AuditHeads, read_heads, summaries
from tests.on_disk import in_memory_alone, need_a_disk_that_waits
from tests.unit.identity.test_audit_heads import held

CLINIC = Identity.generate("clinic")
WARD = Identity.generate("ward")


def head(seq: int, letter: str = "a", *, of: Identity = CLINIC, asked_at: int = 0) -> HeldHead:
    return replace(held(of, seq, letter * 64), asked_at=asked_at)


def test_heads_are_kept_once_each_and_by_another_process_too(tmp_path: Path) -> None:
    path = tmp_path / "audit_heads.jsonl"
    heads = AuditHeads(path)
    assert heads.newest("clinic") == 0
    assert heads.keep([head(3), head(3), head(5, "b"), head(2, of=WARD)]) == {}
    assert heads.keep([head(3), head(5, "b")]) == {}
    assert [(h.node, h.seq) for h in read_heads(path)] == [("clinic", 3), ("clinic", 5), ("ward", 2)]
    again = AuditHeads(path)
    assert (again.newest("clinic"), again.newest("ward")) == (5, 2)
    assert path.stat().st_mode & 0o777 == 0o600


def test_new_heads_are_on_the_disk_after_a_sync_and_so_are_those_of_a_process_that_was_killed_before(
    tmp_path: Path,
) -> None:
    need_a_disk_that_waits(tmp_path)
    path = tmp_path / "audit_heads.jsonl"
    for reopened in (False, True):
        heads = AuditHeads(path)
        heads.sync()  # nothing is there
        heads.keep([head(3), head(2, of=WARD)])
        assert in_memory_alone(path)
        if reopened:
            heads = AuditHeads(path)
            assert heads.keep([head(3)]) == {}  # known: it is not written again
        heads.sync()
        assert not in_memory_alone(path)
        path.unlink()


def test_an_older_head_that_arrives_later_is_no_contradiction(tmp_path: Path) -> None:
    heads = AuditHeads(tmp_path / "heads")
    assert heads.keep([head(9), head(4, "b"), head(6, "c", asked_at=4)]) == {}


@pytest.mark.parametrize("reopened", [False, True])
def test_another_hash_by_the_same_number_is_a_contradiction(tmp_path: Path, reopened: bool) -> None:
    heads = AuditHeads(tmp_path / "heads")
    heads.keep([head(4, "a"), head(9, "b")])
    if reopened:
        heads = AuditHeads(tmp_path / "heads")
    found = heads.keep([head(4, "c")])
    assert (
        "record 4 of its audit log was aaaaaaaaaaaaaaaa... and is cccccccccccccccc..." in found["clinic"][0]
    )
    (chain,) = summaries(tmp_path / "heads")
    assert (chain.seq, chain.count, len(chain.contradictions)) == (9, 3, 1)


def test_a_lower_number_than_was_known_when_the_node_was_asked_is_a_contradiction(tmp_path: Path) -> None:
    heads = AuditHeads(tmp_path / "heads")
    heads.keep([head(9)])
    found = heads.keep([head(5, "b", asked_at=heads.newest("clinic"))])
    assert "had 9 records when it was asked, and 5 when it answered" in found["clinic"][0]
    (chain,) = summaries(tmp_path / "heads")
    assert chain.contradictions == tuple(found["clinic"])


def test_a_head_that_the_node_did_not_sign_is_said_and_not_kept(tmp_path: Path) -> None:
    heads = AuditHeads(tmp_path / "heads")
    found = heads.keep([replace(head(3), signature="00" * 64)])
    assert "not signed by its key" in found["clinic"][0]
    assert read_heads(tmp_path / "heads") == []
    assert heads.newest("clinic") == 0


def test_a_torn_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    AuditHeads(path).keep([head(3), head(4, "b")])
    path.write_bytes(path.read_bytes()[:-20])
    assert [h.seq for h in read_heads(path)] == [3]


def test_a_node_that_repeats_old_heads_fills_no_disk(tmp_path: Path) -> None:
    heads = AuditHeads(tmp_path / "heads", most=5)
    heads.keep([head(9)])
    for _ in range(20):
        assert heads.keep([head(5, "b", asked_at=9)]).keys() == {"clinic"}
    assert len(read_heads(tmp_path / "heads")) == 5
