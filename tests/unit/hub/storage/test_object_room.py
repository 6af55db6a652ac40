"""The room for objects at a hub: what is on its way counts as much as what is there, so that many at once get no more than one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.errors import NoSpace, NotPermitted, ObjectTooLarge
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.objects import Holder, ObjectStore

ALICE, BOB = Holder("alice", "researcher", "job_1"), Holder("bob", "researcher", "job_2")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[HubDatabase]:
    made = HubDatabase(tmp_path / "hub.sqlite")
    yield made
    made.close()


def store_with(tmp_path: Path, ledger: HubDatabase, **limits: float) -> ObjectStore:
    return ObjectStore(tmp_path / "storage", ledger, HubLimits(**{"reserve_bytes": 0, **limits}))  # type: ignore[arg-type]


def put(store: ObjectStore, holder: Holder, content: bytes) -> None:
    incoming = store.begin(holder, len(content))
    incoming.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    incoming.seal(sha256)
    store.commit(sha256, incoming, holder).result(10)
    incoming.close()


def test_uploads_that_begin_together_have_no_more_room_than_one_after_the_other(
    tmp_path: Path, ledger: HubDatabase
) -> None:
    store = store_with(tmp_path, ledger, party_bytes=1000)
    put(store, ALICE, bytes(300))
    first = store.begin(ALICE, 400)
    with pytest.raises(NotPermitted, match="alice has 300 of 1000 bytes stored, and with what is under way"):
        store.begin(ALICE, 301)
    second = store.begin(ALICE, 300)
    store.begin(BOB, 1000).close()
    first.write(bytes(400))  # of which nothing is stored yet
    with pytest.raises(NotPermitted, match="party_bytes"):
        store.begin(ALICE, 1)
    first.close()
    second.close()
    store.begin(ALICE, 700).close()


def test_an_upload_that_is_stored_and_not_over_yet_counts_once(tmp_path: Path, ledger: HubDatabase) -> None:
    """A party's next part may come while the hub has yet to answer that the one before is stored."""
    store = store_with(tmp_path, ledger, party_bytes=1000)
    put(store, ALICE, bytes(200))
    uploads = []
    for content in (b"a" * 300, b"b" * 300):
        incoming = store.begin(ALICE, 300)
        incoming.write(content)
        name = hashlib.sha256(content).hexdigest()
        incoming.seal(name)
        store.commit(name, incoming, ALICE).result(10)
        uploads.append(incoming)
    store.begin(ALICE, 200).close()
    with pytest.raises(NotPermitted, match=r"alice has 800 of 1000 bytes stored, .* it would have 1001 "):
        store.begin(ALICE, 201)
    for incoming in uploads:
        incoming.close()
    store.begin(ALICE, 200).close()


def test_uploads_that_are_broken_off_give_their_room_back(tmp_path: Path, ledger: HubDatabase) -> None:
    store = store_with(tmp_path, ledger, party_bytes=1000)
    for _ in range(50):
        broken = store.begin(ALICE, 900)
        broken.write(bytes(500))
        broken.close()
        broken.close()
    put(store, ALICE, bytes(1000))
    assert not list((tmp_path / "storage" / "incoming").iterdir())


def test_the_disk_that_is_to_stay_free_is_held_against_all_that_is_on_its_way(
    tmp_path: Path, ledger: HubDatabase
) -> None:
    disk = os.statvfs(tmp_path)
    free, gib = disk.f_bavail * disk.f_frsize, 1 << 30
    store = store_with(
        tmp_path, ledger, reserve_bytes=free - 3 * gib, party_disk_share=1.0, object_bytes=4 * gib
    )
    first = store.begin(ALICE, gib)
    second = store.begin(BOB, gib)
    with pytest.raises(NoSpace, match="disk is full"):
        store.begin(Holder("carol", "researcher", "job_3"), 3 * gib // 2)
    first.close()
    second.close()


def test_the_share_of_the_disk_counts_from_the_first_object_on(tmp_path: Path, ledger: HubDatabase) -> None:
    store = store_with(tmp_path, ledger, party_disk_share=0.0)
    with pytest.raises(NotPermitted, match="party_disk_share"):
        store.begin(ALICE, 1)


def test_an_upload_has_no_more_bytes_than_it_was_to_have(tmp_path: Path, ledger: HubDatabase) -> None:
    store = store_with(tmp_path, ledger)
    incoming = store.begin(ALICE, 10)
    incoming.write(bytes(10))
    with pytest.raises(ObjectTooLarge, match="at most 10 bytes"):
        incoming.write(b"x")
    incoming.close()
