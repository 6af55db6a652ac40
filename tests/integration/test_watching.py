"""A job that another party may watch: published to a real hub, followed from there, never touched."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import (
    ConnectionLost,
    DecodeError,
    JobFailed,
    NoSuchJob,
    NotAllowed,
    NotPermitted,
    ObjectMissing,
)
from fedjob.common.types import Address, new_job_id
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership, enrol
from fedjob.identity.party_list import fetch_parties
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport
from fedjob.repository.http import HttpRepository
from fedjob.researcher.hooks.publishing import Publishing, stop_showing
from fedjob.researcher.jobs.followed import HubSource, WatchedJob
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.monitoring.stream import EventSource, FolderSource, Retry, stream
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import Component, JobSpec
from tests.hubs import HASTY, HubThread
from tests.processes import wait_until


class Gateway(HttpRepository):
    """A way to the hub that can be blocked."""

    blocked = False

    def get_watch(self, job: str) -> bytes:
        if self.blocked:
            raise ConnectionLost("the way to the hub is blocked")
        return super().get_watch(job)

    def put_watch(self, job: str, frame: bytes, *, readers: tuple[str, ...]) -> None:
        if self.blocked:
            raise ConnectionLost("the way to the hub is blocked")
        super().put_watch(job, frame, readers=readers)


class Lab:
    """A hub, and researchers with sessions at it."""

    def __init__(self, folder: Path, hub: HubThread, stack: ExitStack) -> None:
        self.folder = folder
        self.hub = hub
        self.broker = MemoryBroker()
        self._stack = stack

    def session(self, name: str) -> Session:
        identity = Identity.generate(name)
        member = enrol(self.hub.url, name, "researcher", identity.public_keys)
        roster = Roster(fetch_parties(member), lambda: fetch_parties(member))
        transport = MemoryTransport(self.broker, Address(name, secrets.token_hex(4)))
        endpoint = Endpoint(identity, member.federation, roster, transport, MemoryStore(), "researcher")
        endpoint.start(5)
        gateway = Gateway(self.hub.url, token=member.token, patience=HASTY)
        home = self.folder / name
        home.mkdir()
        session = Session(home, _local(member), identity, endpoint, gateway, roster, MemoryStore())
        self._stack.callback(session.close)
        return session


def _local(member: Membership) -> Membership:
    return replace(member, broker_url="memory://")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        hub = stack.enter_context(HubThread(tmp_path / "hub"))
        yield Lab(tmp_path, hub, stack)


class Played:
    """A job of ann's whose runner is played: its log, its record and its publishing are real."""

    def __init__(self, session: Session, *watchers: str) -> None:
        self.session = session
        self.spec = JobSpec(
            id=new_job_id(),
            name="heart",
            protocol=Component(name="fedavg"),
            rounds=4,
            seed=1,
            watchers=list(watchers),
            datasets={"node-a": {"name": "toy"}},
        )
        self.folder: JobFolder = job_folder(session.home, self.spec.id)
        self.folder.create()
        self.spec.save(self.folder.spec)
        self.record = JobRecord(rounds=4, attempt=1)
        self.publishing = Publishing(session, self.spec)
        self.log = EventLog(self.folder.events, self.spec.id, (self.publishing.event,))
        self.publishing.start(self.folder, 4, Position(state={}), {})

    def enter(self, *states: str, reason: str = "", detail: str = "") -> None:
        for state in states:
            self.record = replace(self.record, state=state, reason=reason, detail=detail)
            self.record.save(self.folder.record)
            self.log.add("state", state=state, reason=reason, detail=detail)

    def close(self, state: str, reason: str = "", detail: str = "") -> None:
        self.enter(state, reason=reason, detail=detail)
        self.log.close()
        self.publishing.end(state)


def own_events(job: Played) -> list[JobEvent]:
    return list(stream(FolderSource(job.folder), follow=False))


@pytest.mark.feature("TB-72")
def test_a_watcher_sees_a_job_live_and_after_its_runner_is_gone(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    job.enter("waiting", "queued")
    job.publishing.publish()
    followed = bob.follow(job.spec.id)
    heard: list[JobEvent] = []
    listener = threading.Thread(target=lambda: heard.extend(followed.events(follow=True)))
    listener.start()
    job.enter("starting", "running")
    job.log.add("metrics", node="node-a", round_=1, loss=0.5)
    job.log.add("round", round_=1, nodes=["node-a"], left_out={}, seconds=0.1)
    # a frame that was begun before the job ran may name an older state beside all of its events
    wait_until(lambda: len(heard) >= 6 and followed.state == "running", timeout_s=30, what="live events")
    assert listener.is_alive()
    assert followed.metrics["node-a"] == {"loss": 0.5}
    assert str(followed).startswith(f"heart ({job.spec.id[:12]}): running, round 1 of 4, 1 node: node-a")
    job.close("completed")
    ann.close()
    listener.join(20)
    assert not listener.is_alive()
    assert heard == own_events(job) == list(bob.follow(job.spec.id).events(follow=True))
    late = bob.follow(job.spec.id)
    assert (late.state, late.success, late.owner, late.name) == ("completed", True, "ann", "heart")
    shot = late.snapshot()
    assert (shot.state, shot.code, shot.reason, shot.result, shot.round) == ("completed", 4, None, None, 1)


@pytest.mark.feature("TB-72")
def test_a_party_that_is_no_watcher_is_told_so(lab: Lab) -> None:
    ann, eve = lab.session("ann"), lab.session("eve")
    job = Played(ann, "bob")
    job.close("failed", reason="timeout")
    with pytest.raises(NotAllowed, match="eve is no watcher"):
        eve.follow(job.spec.id)
    with pytest.raises(NoSuchJob, match="ask whoever runs it"):
        eve.follow(new_job_id())
    [segment] = WatchedJob(ann, job.spec.id).look().segments
    with pytest.raises(ObjectMissing):
        eve.repository.get_bytes(segment.ref, limit_bytes=1 << 20)


@pytest.mark.feature("TB-74")
@pytest.mark.parametrize("verb", ["kill", "cancel", "delete", "restart", "run", "submit"])
def test_a_watcher_changes_nothing(verb: str, lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    job.enter("waiting", "queued", "starting", "running")
    job.publishing.publish()
    before = job.folder.record.read_bytes(), own_events(job)
    followed = bob.follow(job.spec.id)
    with pytest.raises(NotAllowed, match=f"only ann, who runs job_.* may {verb} it"):
        getattr(followed, verb)()
    with pytest.raises(NotAllowed):
        _ = followed.result
    assert (job.folder.record.read_bytes(), own_events(job)) == before
    job.close("completed")
    assert followed.events(follow=True) is not None
    assert [e.body["state"] for e in followed.events(follow=True)][-1] == "completed"


def test_how_a_watched_job_failed_is_what_the_stream_returns(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    job.enter("waiting", "queued", "starting", "running")
    job.close("failed", reason="timeout", detail="round 2 took too long")
    found = bob.follow(job.spec.id).events(follow=True)
    assert [next(found).seq for _ in range(5)] == [1, 2, 3, 4, 5]
    with pytest.raises(StopIteration) as stop:
        next(found)
    assert isinstance(stop.value.value, JobFailed)
    assert stop.value.value.reason == "timeout"
    assert bob.follow(job.spec.id).snapshot().error == "round 2 took too long"


def test_a_hub_that_is_away_costs_a_job_nothing_and_watchers_get_it_all_later(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    job.enter("waiting")
    job.publishing.publish()
    gateway = ann.repository
    assert isinstance(gateway, Gateway)
    gateway.blocked = True
    job.enter("queued")
    wait_until(lambda: bool(job.publishing.trouble), timeout_s=30, what="trouble")
    gateway.blocked = False
    job.enter("starting", "running")
    job.close("completed")
    assert list(bob.follow(job.spec.id).events(follow=True)) == own_events(job)


def test_a_long_log_is_followed_in_order_and_from_any_event(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    for burst in range(12):
        for number in range(40):
            job.log.add("note", text=f"{burst} {number}")
        job.publishing.publish()
    job.close("completed")
    followed = bob.follow(job.spec.id)
    assert list(followed.events()) == own_events(job)
    assert [e.seq for e in followed.events(since=300)] == list(range(301, 482))
    assert len(WatchedJob(bob, job.spec.id).look().segments) < 8


def test_what_is_taken_back_is_gone_for_watchers(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    job.close("completed")
    followed = bob.follow(job.spec.id)
    found = followed.events()
    next(found, None)
    stop_showing(ann, job.spec.id)
    with pytest.raises(NoSuchJob, match="no longer shown"):
        list(followed.events(follow=True))
    with pytest.raises(ObjectMissing):
        bob.repository.get_watch(job.spec.id)


def test_a_frame_of_another_job_or_an_older_one_is_not_taken(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    one, other = Played(ann, "bob"), Played(ann, "bob")
    one.enter("waiting")
    one.publishing.publish()
    old = ann.repository.get_watch(one.spec.id)
    window = WatchedJob(bob, one.spec.id)
    one.close("completed")
    other.close("failed", reason="timeout")
    assert window.look().state == "completed"
    ann.repository.put_watch(one.spec.id, old, readers=("bob",))
    assert window.look().state == "completed"
    ann.repository.put_watch(one.spec.id, ann.repository.get_watch(other.spec.id), readers=("bob",))
    with pytest.raises((NotPermitted, DecodeError), match="another job"):
        window.look()


# --- the same schedule of retries, whoever's job it is -------------------------------------


def own_source(lab: Lab) -> tuple[EventSource, Callable[[bool], None]]:
    """Return a source of one's own job, and what breaks or mends the way to it."""
    job = Played(lab.session("ann"), "bob")
    job.close("completed")

    def block(broken: bool) -> None:
        aside = job.folder.path / "aside"
        if broken:
            job.folder.events.rename(aside)
            job.folder.events.mkdir()  # reading it fails
        else:
            job.folder.events.rmdir()
            aside.rename(job.folder.events)

    return FolderSource(job.folder), block


def followed_source(lab: Lab) -> tuple[EventSource, Callable[[bool], None]]:
    """Return a source of a job that is followed, and what breaks or mends the way to it."""
    job = Played(lab.session("ann"), "bob")
    job.close("completed")
    bob = lab.session("bob")

    def block(broken: bool) -> None:
        assert isinstance(bob.repository, Gateway)
        bob.repository.blocked = broken

    return HubSource(WatchedJob(bob, job.spec.id)), block


@pytest.mark.feature("TB-68", "TB-69", "TB-73")
@pytest.mark.parametrize("make", [own_source, followed_source])
def test_four_breaks_are_survived_and_six_are_not(
    make: Callable[[Lab], tuple[EventSource, Callable[[bool], None]]], lab: Lab
) -> None:
    source, block = make(lab)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            block(False)

    block(True)
    assert [e.body["state"] for e in stream(source, follow=True, retry=Retry(), sleep=sleep)] == ["completed"]
    assert waits[:4] == [0.5, 1, 2, 4]
    block(True)
    waits.clear()
    with pytest.raises(ConnectionLost, match="tried 6 times"):
        list(stream(source, follow=True, retry=Retry(5, 0.5, 2), sleep=lambda s: waits.append(s)))
    assert waits == [0.5, 1, 2, 4, 8]


def test_what_is_published_is_the_log_to_the_byte(lab: Lab) -> None:
    ann, bob = lab.session("ann"), lab.session("bob")
    job = Played(ann, "bob")
    job.log.add("note", text="é\u2028\U0001f600")
    job.close("completed")
    segments = WatchedJob(bob, job.spec.id).look().segments
    fetched = b"".join(bob.repository.get_bytes(s.ref, limit_bytes=1 << 20) for s in segments)
    assert fetched == job.folder.events.read_bytes()
    assert json.loads(fetched.splitlines()[0])["body"]["text"] == "é\u2028\U0001f600"
