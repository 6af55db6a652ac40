"""A hub whose objects lie in an S3-compatible store: the same promises, the same bytes, and its faults by name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest

from fedjob import FedAvg, Job
from fedjob.common.errors import ConfigError, ObjectMissing, RepositoryUnreachable
from fedjob.hub.storage.bucket import LINK_S, BucketLogin
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.objects import ORPHAN_S, ObjectStore
from fedjob.identity.enrolment import enrol_home
from fedjob.repository.base import Repository
from fedjob.repository.http import HttpRepository
from fedjob.repository.store_links import LINK_TYPE
from fedjob.testing.repository import PART_BYTES, RepositoryContract
from tests.cluster.store import HUB, OWNER, Store
from tests.data import TRAINING, make_points
from tests.e2e.federation import Federation, digest, preferred_kind
from tests.hubs import HubThread
from tests.plans import Tiny
from tests.processes import Processes

pytestmark = pytest.mark.timeout(400)


class _Contract(RepositoryContract):
    direct = False

    @pytest.fixture
    def repository(self, tmp_path_factory: pytest.TempPathFactory, store: Store) -> Iterator[Repository]:
        self.bucket = store.bucket()
        with HubThread(tmp_path_factory.mktemp("hub"), bucket=self.bucket, direct=self.direct) as hub:
            yield hub.repository("alice", "researcher", part_bytes=PART_BYTES)

    def spoil(self, repository: Repository, sha256: str, change: Callable[[bytes], bytes]) -> None:
        name = f"objects/{sha256[:2]}/{sha256}"
        content = bytes(obstore.get(self.bucket._store, name).bytes())
        obstore.put(self.bucket._store, name, change(content))


class TestThroughTheHub(_Contract):
    pass


class TestStraightFromTheStore(_Contract):
    direct = True


@pytest.fixture
def hub(tmp_path: Path, store: Store) -> Iterator[HubThread]:
    with HubThread(tmp_path, bucket=store.bucket(), direct=True) as made:
        yield made


def _link(hub: HubThread, reader: HttpRepository, sha256: str) -> tuple[int, str, bytes]:
    with reader._web.stream(
        "GET", f"/v1/objects/{sha256}", headers={"X-Fedjob-Direct": "1"}, accept=(404,)
    ) as stream:
        return stream.status, stream.headers.get("Content-Type", ""), stream.read(1 << 20)


def test_only_a_reader_is_given_a_link_and_it_holds_no_token(hub: HubThread) -> None:
    writer = hub.repository("alice", "researcher")
    reader, stranger = hub.repository("node-a"), hub.repository("node-b")
    ref = writer.put(b"parameters" * 100, job="job", readers=["node-a"])
    status, kind, content = _link(hub, reader, ref.sha256)
    assert (status, kind) == (200, LINK_TYPE)
    for secret in (hub.join("node-a").token, HUB.secret):
        assert secret.encode() not in content
    assert f"X-Amz-Expires={LINK_S:.0f}".encode() in content
    status, kind, content = _link(hub, stranger, ref.sha256)
    assert status == 404
    assert b"X-Amz" not in content
    assert reader.get_bytes(ref, limit_bytes=1 << 20) == b"parameters" * 100


def test_what_no_job_holds_any_more_is_gone_from_the_store(hub: HubThread, store: Store) -> None:
    writer = hub.repository("alice", "researcher")
    refs = [writer.put(bytes([k]) * 1000, job="job") for k in range(5)]
    assert all(store.bucket().size(ref.sha256) == 1000 for ref in refs)
    writer.end_job("job")
    assert all(store.bucket().size(ref.sha256) is None for ref in refs)
    again = writer.put(bytes([0]) * 1000, job="other")
    assert writer.get_bytes(again, limit_bytes=1000) == bytes([0]) * 1000


def test_where_the_store_can_not_be_reached_by_a_party_its_bytes_come_through_the_hub(hub: HubThread) -> None:
    writer, reader = hub.repository("alice", "researcher"), hub.repository("node-a")
    ref = writer.put(b"x" * 5000, job="job", readers=["node-a"])
    reader._store._webs[hub.bucket.address.endpoint] = _Away()  # type: ignore[assignment]
    assert reader.get_bytes(ref, limit_bytes=1 << 20) == b"x" * 5000
    assert not reader._store.is_open


class _Away:
    """A store behind a firewall."""

    def stream(self, *_: object, **__: object) -> object:
        raise RepositoryUnreachable("no route")

    def close(self) -> None:
        return


def test_a_store_that_goes_away_and_comes_back_is_waited_for(hub: HubThread, store: Store) -> None:
    writer = hub.repository("alice", "researcher")
    ref = writer.put(b"y" * 5000, job="job")
    store.stop()
    try:
        with pytest.raises(RepositoryUnreachable, match="does not answer"):
            writer.get_bytes(ref, limit_bytes=1 << 20)
        with pytest.raises(RepositoryUnreachable, match="does not answer"):
            writer.put(b"z" * 5000, job="job")
    finally:
        store.start()
    assert writer.get_bytes(ref, limit_bytes=1 << 20) == b"y" * 5000
    writer.put(b"z" * 5000, job="job")


def test_wrong_logins_and_missing_buckets_are_named(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"refuses the hub.*InvalidAccessKeyId"):
        store.bucket(login=BucketLogin("nobody", HUB.secret)).check()
    with pytest.raises(ConfigError, match=r"refuses the hub.*SignatureDoesNotMatch") as caught:
        store.bucket(login=BucketLogin(HUB.key, "wrong-secret")).check()
    assert "wrong-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="no bucket 'elsewhere'"):
        store.bucket("elsewhere").check()
    with pytest.raises(ObjectMissing):
        store.bucket().read("0" * 64, 0, 10)


def test_a_hub_that_can_not_use_its_store_says_so_and_does_not_start(store: Store, tmp_path: Path) -> None:
    wrong = tmp_path / "login"
    wrong.write_text(f"AWS_ACCESS_KEY_ID={HUB.key}\nAWS_SECRET_ACCESS_KEY=no\n")
    wrong.chmod(0o600)
    with Processes(tmp_path) as processes:
        for login, url, words, status in (
            (wrong, store.url, "refuses the hub", 1),
            (store.login, store.url.replace("federation", "elsewhere"), "no bucket 'elsewhere'", 1),
            (store.login, "s3://federation/x?endpoint=http://127.0.0.1:9", "does not answer", 2),
        ):
            done = processes.run(
                "fedjob", "hub", "start", "--home", tmp_path / "hub", "--port", "0", "--storage", url,
                "--storage-credentials", login, expect=status,
            )  # fmt: skip
            assert words in done.stderr
            assert HUB.secret not in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def federation(tmp_path: Path, store: Store) -> Iterator[Federation]:
    """A hub whose objects lie in the store, and whose jobs count as ended after a second."""
    (tmp_path / "hub").mkdir(mode=0o700)
    (tmp_path / "hub" / "config.toml").write_text("ttl_s = 1.0\n")
    options = ("--storage", store.url, "--storage-credentials", store.login)
    with Federation(tmp_path, preferred_kind(), hub_options=options) as made:
        yield made


def _put(federation: Federation, content: bytes) -> str:
    member, _ = enrol_home(
        federation.folder / "alice", "alice", "researcher", hub=federation.url, invite=None
    )
    with HttpRepository(federation.url, token=member.token) as repository:
        return repository.put(content, job="job").sha256


def _storage_row(federation: Federation) -> dict[str, object]:
    command = ("fedjob", "hub", "doctor", "--home", federation.folder / "hub", "--json")
    rows = json.loads(federation.processes.run(*command, expect=None).stdout)
    [row] = [row for row in rows if "storage" in row.values()]
    return dict(row)


def test_the_doctor_of_a_hub_looks_at_its_store(federation: Federation, store: Store) -> None:
    row = _storage_row(federation)
    assert row["ok"] is True
    assert store.url in str(row)
    store.stop()
    try:
        row = _storage_row(federation)
    finally:
        store.start()
    assert row["ok"] is False
    assert "does not answer" in str(row)
    assert HUB.secret not in str(row)


def test_gc_removes_from_the_store_what_no_job_needs(federation: Federation, store: Store) -> None:
    sha256 = _put(federation, b"left behind" * 100)
    assert store.bucket().size(sha256) == 1100
    time.sleep(1.1)
    done = federation.processes.run("fedjob", "hub", "gc", "--home", federation.folder / "hub", "--json")
    swept = json.loads(done.stdout)
    assert (swept["num_jobs"], swept["num_objects"], swept["freed_bytes"]) == (1, 1, 1100)
    assert store.bucket().size(sha256) is None


def test_gc_of_a_hub_that_is_stopped_takes_the_store_from_its_options(
    federation: Federation, store: Store
) -> None:
    sha256 = _put(federation, b"left behind" * 100)
    federation.hub.stop()
    time.sleep(1.1)
    command = ("fedjob", "hub", "gc", "--home", federation.folder / "hub", "--json")
    done = federation.processes.run(*command, "--storage", store.url, expect=1)
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    done = federation.processes.run(*command, "--storage", store.url, "--storage-credentials", store.login)
    assert json.loads(done.stdout)["num_objects"] == 1
    assert store.bucket().size(sha256) is None


def test_a_restored_hub_knows_its_objects_in_the_store(federation: Federation, store: Store) -> None:
    sha256 = _put(federation, b"kept" * 100)
    federation.processes.run(
        "fedjob", "hub", "backup", federation.folder / "b", "--home", federation.folder / "hub"
    )
    federation.hub.stop()
    restored = federation.folder / "restored"
    done = federation.processes.run(
        "fedjob", "hub", "restore", federation.folder / "b", "--home", restored, "--storage", store.url,
        "--storage-credentials", store.login,
    )  # fmt: skip
    assert "forgotten" not in done.stdout
    with contextlib.closing(HubDatabase(restored / "hub.sqlite")) as ledger:
        assert ledger.read("SELECT sha256 FROM objects") == [(sha256,)]
    assert store.bucket().size(sha256) == 400


def test_what_a_crash_left_in_the_store_goes_after_an_hour_and_nothing_of_others_goes(
    hub: HubThread, store: Store, tmp_path: Path
) -> None:
    hub.repository("alice", "researcher").put(b"needed", job="job")
    bucket = store.bucket()
    (tmp_path / "stray").write_bytes(b"stray" * 100)
    stray = hashlib.sha256(b"stray" * 100).hexdigest()
    bucket.put(stray, tmp_path / "stray")
    obstore.put(bucket._store, "objects/notes.txt", b"of somebody else")
    folder, ledger, limits = tmp_path / "storage", hub.ledger, hub.limits
    assert ObjectStore(folder, ledger, limits, bucket=bucket).sweep().num_files == 0
    later = ObjectStore(folder, ledger, limits, bucket=bucket, clock=lambda: time.time() + 2 * ORPHAN_S)
    before = {name for name, *_ in bucket.listed()}
    later.sweep()
    after = {name for name, *_ in bucket.listed()}
    assert stray in before - after
    assert {"notes.txt", hashlib.sha256(b"needed").hexdigest()} <= after


def _digest_over(folder: Path, *options: str) -> str:
    with Federation(folder, preferred_kind(), hub_options=options) as made:
        for index, node in enumerate(made.add_nodes("site-1", "site-2", "site-3")):
            path = make_points(made.folder / f"points-{index}.npz", 60 + 20 * index, index)
            node.add("points", path, "points")
        made.start_nodes()
        job = Job(
            FedAvg(),
            training_plan=Tiny,
            training_args=TRAINING,
            rounds=3,
            seed=11,
            data={"tags": ["points"]},
            session=made.session(),
        )
        job.run(progress=False)
        assert not any(each.is_file() for each in (folder / "hub" / "storage").rglob("*")) or not options
        return digest(job)


def test_a_job_over_the_store_ends_in_the_bytes_of_one_over_a_folder(store: Store, tmp_path: Path) -> None:
    over_folder = _digest_over(tmp_path / "folder")
    login = ("--storage-credentials", str(store.login))
    before = {name for name, *_ in store.bucket().listed()}
    options = ("--storage", store.url, *login, "--storage-direct")
    assert _digest_over(tmp_path / "store", *options) == over_folder
    assert {name for name, *_ in store.bucket().listed()} <= before  # the end of the job removes all
    shown = "".join(
        path.read_text(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix in (".log", ".json", ".txt", ".toml")
    )
    assert HUB.secret not in shown
    assert OWNER.secret not in shown
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
