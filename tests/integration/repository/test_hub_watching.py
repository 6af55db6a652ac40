"""What a job's owner shows to its watchers, at a real hub: who may put it, who may read it, when it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.errors import (
    NotPermitted,
    ObjectMissing,
    ObjectTooLarge,
    RepositoryError,
    RepositoryUnreachable,
)
from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.storage.objects import ObjectStore
from fedjob.identity.keys import Identity
from fedjob.identity.membership import enrol
from fedjob.messaging.frame import encode_frame
from fedjob.repository.base import watch_job
from fedjob.repository.directory import DirectoryRepository
from fedjob.repository.http import HttpRepository
from tests.hubs import HASTY, HubThread

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    with HubThread(tmp_path / "hub") as hub:
        yield hub


class Party:
    """Somebody who enrolled with a key of their own."""

    def __init__(self, hub: HubThread, name: str, role: str = "researcher") -> None:
        self.identity = Identity.generate(name)
        self._hub = hub
        member = enrol(hub.url, name, role, self.identity.public_keys)
        self.repository = HttpRepository(hub.url, token=member.token, patience=HASTY)

    def frame(self, payload: bytes = b"x") -> bytes:
        return encode_frame(self.identity, self._hub.ledger.federation, payload)


def test_only_named_readers_and_the_owner_read_a_frame(hub: HubThread) -> None:
    ann, bob, eve = (Party(hub, name) for name in ("ann", "bob", "eve"))
    with ann.repository, bob.repository, eve.repository:
        with pytest.raises(ObjectMissing):
            bob.repository.get_watch(JOB)
        ann.repository.put_watch(JOB, ann.frame(b"1"), readers=("bob",))
        ann.repository.put_watch(JOB, ann.frame(b"2"), readers=("bob",))
        assert bob.repository.get_watch(JOB) == ann.frame(b"2") == ann.repository.get_watch(JOB)
        with pytest.raises(NotPermitted, match="is not among the job's watchers"):
            eve.repository.get_watch(JOB)
        ann.repository.put_watch(JOB, ann.frame(b"3"), readers=())
        with pytest.raises(NotPermitted):
            bob.repository.get_watch(JOB)


def test_only_the_jobs_owner_puts_a_frame(hub: HubThread) -> None:
    ann, eve, node = Party(hub, "ann"), Party(hub, "eve"), Party(hub, "node1", "node")
    with ann.repository, eve.repository, node.repository:
        ann.repository.put(b"plan", job=JOB)
        with pytest.raises(NotPermitted, match="another researcher"):
            eve.repository.put_watch(JOB, eve.frame(), readers=())
        ann.repository.put_watch(JOB, ann.frame(), readers=("eve",))
        for other in (f"{JOB[:-1]}2", f"{JOB[:-1]}3"):
            ann.repository.put_watch(other, ann.frame(), readers=())
            with pytest.raises(NotPermitted, match="another researcher"):
                eve.repository.put_watch(other, eve.frame(), readers=())
        with pytest.raises(NotPermitted, match="only a researcher"):
            node.repository.put_watch(JOB, node.frame(), readers=())


def test_a_frame_that_somebody_else_signed_is_refused(hub: HubThread) -> None:
    ann, eve = Party(hub, "ann"), Party(hub, "eve")
    with ann.repository, eve.repository:
        forged = encode_frame(Identity.generate("eve"), hub.ledger.federation, b"x")
        for wrong in (ann.frame(), forged, b"", b"rubbish"):
            with pytest.raises(RepositoryError):
                eve.repository.put_watch(JOB, wrong, readers=())
        with pytest.raises(ObjectTooLarge):
            eve.repository.put_watch(JOB, b"x" * (MAX_FRAME_BYTES + 1), readers=())
        with pytest.raises(ObjectMissing):
            eve.repository.get_watch(JOB)


def test_a_frame_outlives_its_jobs_end_and_goes_with_what_holds_its_objects(hub: HubThread) -> None:
    ann, bob = Party(hub, "ann"), Party(hub, "bob")
    with ann.repository, bob.repository:
        segment = ann.repository.put(b"events", job=watch_job(JOB), readers=["bob"])
        ann.repository.put_watch(JOB, ann.frame(), readers=("bob",))
        ann.repository.end_job(JOB)
        assert bob.repository.get_bytes(segment, limit_bytes=10) == b"events"
        assert bob.repository.get_watch(JOB) == ann.frame()
        ann.repository.end_job(watch_job(JOB))
        for gone in (
            lambda: bob.repository.get_watch(JOB),
            lambda: bob.repository.get_bytes(segment, limit_bytes=10),
        ):
            with pytest.raises(ObjectMissing):
                gone()


def test_what_nobody_ended_goes_with_time(tmp_path: Path) -> None:
    with HubThread(tmp_path / "hub") as hub:
        ann = Party(hub, "ann")
        with ann.repository:
            ann.repository.put_watch(JOB, ann.frame(), readers=())
            later = ObjectStore(
                tmp_path / "hub" / "storage",
                hub.ledger,
                HubLimits(ttl_s=10.0),
                clock=lambda: 4e9,
            )
            assert later.sweep().num_jobs == 1
            with pytest.raises(ObjectMissing):
                ann.repository.get_watch(JOB)


def test_a_hub_that_is_away_is_tried_once_only(hub: HubThread) -> None:
    ann = Party(hub, "ann")
    with ann.repository, HttpRepository("http://127.0.0.1:9", token="x") as away:
        ann.repository.put_watch(JOB, ann.frame(), readers=())
        with pytest.raises(RepositoryUnreachable):
            away.get_watch(JOB)


def test_a_folder_has_no_place_for_watchers(tmp_path: Path) -> None:
    with DirectoryRepository(tmp_path) as folder:
        with pytest.raises(RepositoryError, match="use a hub"):
            folder.put_watch(JOB, b"", readers=())
        with pytest.raises(RepositoryError, match="use a hub"):
            folder.get_watch(JOB)
