"""Heads of audit chains: what a node signs, and what others hold of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedjob.common.errors import DecodeError
from fedjob.identity.audit_heads import HeadSigner, HeldHead, read_held_head
from fedjob.identity.keys import Identity

HASH = "ab" * 32


def held(identity: Identity, seq: int = 7, hash_: str = HASH, *, federation: str = "hearts") -> HeldHead:
    head = HeadSigner(identity, federation, lambda: (seq, hash_))()
    return HeldHead(
        node=identity.party,
        federation=federation,
        key=identity.public_key_hex,
        seq=head.seq,
        hash=head.hash,
        signature=head.signature,
        about="task",
        round=2,
        received=1_700_000_000.5,
    )


@pytest.fixture(scope="module")
def clinic() -> Identity:
    return Identity.generate("clinic")


def test_a_head_is_signed_by_its_node_and_shows_that_to_anybody(clinic: Identity) -> None:
    head = held(clinic)
    assert head.is_signed
    assert read_held_head(head.to_line()) == head
    assert read_held_head(head.to_line().encode() + b"\n").is_signed


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 8},
        {"seq": 6},
        {"hash": "ac" * 32},
        {"federation": "lungs"},
        {"node": "clinic-2"},
        {"key": Identity.generate("clinic").public_key_hex},
        {"key": ""},
        {"key": "zz"},
        {"signature": "00" * 64},
        {"signature": ""},
        {"signature": "zz" * 64},
        {"hash": HASH.upper()},
        {"seq": -1},
        {"seq": 1 << 60},
    ],
)
def test_a_head_that_was_changed_is_not_signed(clinic: Identity, change: dict[str, object]) -> None:
    assert not replace(held(clinic), **change).is_signed  # type: ignore[arg-type]


def test_one_record_is_signed_once_and_a_further_one_anew(clinic: Identity) -> None:
    newest = [(1, HASH)]
    signer = HeadSigner(clinic, "hearts", lambda: newest[-1])
    first = signer()
    assert signer() is first
    newest.append((2, "cd" * 32))
    assert signer().seq == 2
    newest.append((2, "ef" * 32))
    assert signer().hash == "ef" * 32


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[1]",
        b"{}",
        b'{"v":2}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_head_is_refused_with_what_was_expected(line: bytes) -> None:
    with pytest.raises(DecodeError, match="expected a head of an audit log"):
        read_held_head(line)


@pytest.mark.parametrize(
    ("field", "value"), [("seq", "7"), ("seq", True), ("hash", 7), ("received", "now"), ("node", None)]
)
def test_a_head_with_a_field_of_another_kind_is_refused_and_the_field_named(
    clinic: Identity, field: str, value: object
) -> None:
    plain = {**json.loads(held(clinic).to_line()), field: value}
    with pytest.raises(DecodeError, match=field):
        read_held_head(json.dumps(plain))
