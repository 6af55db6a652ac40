"""Endpoints over the broker in memory: what passes the gate, what is dropped and counted, and receipts."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import BrokerUnreachable, EncodeError
from fedjob.common.types import MAX_FRAME_BYTES, Address, Ref
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Role, Roster
from fedjob.messaging.courier import FIRST_RESEND_S, JITTER_FRACTION
from fedjob.messaging.endpoint import Endpoint, seen_entries
from fedjob.messaging.frame import encode_frame
from fedjob.messaging.frame_checks import CLOCK_TOLERANCE_S, MAX_TTL_S, Dropped, FrameChecks
from fedjob.messaging.frame_memory import REPEATS_AT_ONCE, FrameMemory
from fedjob.messaging.messages import (
    MAX_PAYLOAD_BYTES,
    MAX_RIDING,
    Body,
    End,
    Event,
    Message,
    Offer,
    Ping,
    Pong,
    Result,
    Search,
    Task,
    encode_payload,
)
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.receipts import RIDE_S
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport

ALICE, BOB, SITE, CLINIC = (Identity.generate(name) for name in ("alice", "bob", "site", "clinic"))
STRANGER = Identity.generate("stranger")
AT_ALICE, AT_BOB, AT_SITE, AT_CLINIC = (
    Address("alice", "s1"),
    Address("bob", "s2"),
    Address("site"),
    Address("clinic"),
)
TASK = Task(dataset="d", protocol="fedavg")


@dataclass(frozen=True)
class Entry:
    role: str
    key_hex: str
    revoked: bool = False
    sealing_hex: str = ""
    valid_from: float = 0
    valid_until: float = 0


ROSTER = Roster(
    {
        "alice": Entry("researcher", ALICE.public_key_hex),
        "bob": Entry("researcher", BOB.public_key_hex),
        "site": Entry("node", SITE.public_key_hex),
        "clinic": Entry("node", CLINIC.public_key_hex),
    }
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A broker whose frames can be lost, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lose = 0
        self.passed: list[tuple[str, bytes]] = []
        self.broker = MemoryBroker(self._fate)
        self.receipts: list[str] = []
        self.given_up: list[str] = []

    def _fate(self, sender: str, to: Address | None, frame: bytes) -> int:
        if self.lose > 0:
            self.lose -= 1
            return 0
        self.passed.append((sender, frame))
        return 1

    def endpoint(
        self, identity: Identity, address: Address, role: Role, store: MemoryStore | None = None
    ) -> Endpoint:
        made = Endpoint(
            identity, "fed", ROSTER, MemoryTransport(self.broker, address), store or MemoryStore(), role,
            on_receipt=self.receipts.append, on_give_up=self.given_up.append,
            clock=self.clock, wall=lambda: 1.7e9 + self.clock.now,
        )  # fmt: skip
        made.start()
        return made


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> Endpoint:
    return world.endpoint(ALICE, AT_ALICE, "researcher")


@pytest.fixture
def site(world: World) -> Endpoint:
    return world.endpoint(SITE, AT_SITE, "node")


def test_a_task_arrives_with_its_header_and_is_resent_until_it_is_settled(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    id_ = alice.send(AT_SITE, TASK, job="job_1", task="t", round=3, step="train", attempt=2, epoch=4)
    (message,) = site.receive(0)
    assert (message.id, message.sender, message.to, message.reply_to) == (
        id_,
        "alice",
        "site/main",
        "alice/s1",
    )
    assert (message.job, message.task, message.round, message.step) == ("job_1", "t", 3, "train")
    assert (message.attempt, message.epoch, message.body) == (2, 4, TASK)
    assert alice.receive(0) == []
    assert alice.undelivered() == 1
    world.clock.now += FIRST_RESEND_S
    alice.receive(0)
    assert site.receive(0) == []
    assert site.counters == {"replayed": 1}
    site.settle([message])
    assert alice.receive(0) == []
    assert (alice.undelivered(), world.receipts) == (0, [id_])


PARAMS = b"parameters"
SMALL = Ref(hashlib.sha256(PARAMS).hexdigest(), len(PARAMS))
SMALL_TASK = replace(TASK, params={"params": SMALL}, attached={SMALL.sha256: PARAMS})


def test_in_a_round_of_a_small_model_receipts_travel_in_the_answer_and_in_the_next_task(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    sent = []
    for _ in range(3):
        sent.append(alice.send(AT_SITE, SMALL_TASK))
        (asked,) = site.receive(0)
        site.settle([asked])
        answer = Result(of=asked.id, key="k", ok=True, params=SMALL, attached={SMALL.sha256: PARAMS})
        sent.append(site.send(AT_ALICE, answer))
        (answered,) = alice.receive(0)
        alice.settle([answered])
        assert (alice.undelivered(), site.undelivered()) == (0, 1)
    assert world.receipts == sent[:-1]
    assert len(world.passed) == 6


def test_a_receipt_that_nothing_takes_along_goes_by_itself_before_its_message_is_sent_again(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    assert RIDE_S < FIRST_RESEND_S * (1 - JITTER_FRACTION) / 2
    id_ = alice.send(AT_SITE, SMALL_TASK)
    site.settle(site.receive(0))
    assert (alice.receive(0), world.receipts) == ([], [])
    world.clock.now += RIDE_S
    site.receive(0)
    alice.receive(0)
    assert (world.receipts, alice.undelivered()) == ([id_], 0)
    assert len(world.passed) == 2


def test_who_is_asked_again_or_leaves_sends_the_receipt_at_once(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    alice.send(AT_SITE, SMALL_TASK)
    site.settle(site.receive(0))
    world.clock.now += RIDE_S / 2
    again = alice.prepare(AT_SITE, TASK)
    alice.post(again)
    site.settle(site.receive(0))  # one that nothing was attached to does not wait, and takes the other along
    alice.receive(0)
    assert alice.undelivered() == 0
    last = alice.send(AT_SITE, SMALL_TASK)
    site.settle(site.receive(0))
    site.stop()
    alice.receive(0)
    assert (world.receipts[-1], alice.undelivered()) == (last, 0)


def test_a_receipt_that_was_lost_with_the_message_it_travelled_in_is_replaced(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    id_ = alice.send(AT_SITE, SMALL_TASK)
    (asked,) = site.receive(0)
    site.settle([asked])
    world.lose = 1
    site.send(AT_ALICE, Result(of=asked.id, key="k", ok=True))
    world.clock.now += FIRST_RESEND_S
    alice.receive(0)
    site.receive(0)
    assert len(alice.receive(0)) == 1
    assert world.receipts == [id_]


def test_receipts_that_a_message_has_no_room_for_go_by_themselves(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    ids = [alice.send(AT_SITE, replace(SMALL_TASK, dataset=str(n))) for n in range(MAX_RIDING + 5)]
    site.settle(site.receive(0))
    site.send(AT_ALICE, Result(of=ids[0], key="k", ok=True))
    alice.receive(0)
    assert world.receipts == ids[:MAX_RIDING]
    room = MAX_PAYLOAD_BYTES - len(
        encode_payload(Message(to="alice/s1", id="0" * 32, body=Result(of="", key="", ok=True, detail="")))
    )
    with pytest.raises(EncodeError):
        site.send(AT_ALICE, Result(of="", key="", ok=True, detail="x" * room))
    site.send(AT_ALICE, Result(of="", key="", ok=True, detail="x" * (room - 150)))
    assert len(alice.receive(0)) == 1
    assert world.receipts == ids[:MAX_RIDING]
    world.clock.now += RIDE_S
    site.receive(0)
    alice.receive(0)
    assert world.receipts == ids


def test_a_receipt_in_a_message_counts_only_for_messages_to_its_sender(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    clinic = world.endpoint(CLINIC, AT_CLINIC, "node")
    id_ = alice.send(AT_SITE, SMALL_TASK)
    forged = Message(
        to="alice/s1", id="1" * 32, sender="clinic", reply_to="clinic/main", receipts=[id_],
        body=Event(type="progress"), issued=clinic._wall(), expires=clinic._wall() + 60,
    )  # fmt: skip
    world.broker._pass("clinic", AT_ALICE, encode_frame(CLINIC, "fed", encode_payload(forged)))
    assert len(alice.receive(0)) == 1
    assert (alice.undelivered(), world.receipts) == (1, [])


def test_a_lost_frame_is_sent_again_with_the_same_id(world: World, alice: Endpoint, site: Endpoint) -> None:
    world.lose = 3
    id_ = alice.send(AT_SITE, TASK)
    got: list[Message] = []
    for _ in range(40):
        world.clock.now += 0.1
        alice.receive(0)
        got += site.receive(0)
    assert [message.id for message in got] == [id_]


def test_a_lost_receipt_is_given_again(world: World, alice: Endpoint, site: Endpoint) -> None:
    alice.send(AT_SITE, TASK)
    messages = site.receive(0)
    world.lose = 1
    site.settle(messages)
    alice.receive(0)
    assert alice.undelivered() == 1
    world.clock.now += 1
    alice.receive(0)
    assert site.receive(0) == []
    alice.receive(0)
    assert alice.undelivered() == 0


def test_receipts_of_many_messages_travel_in_one_frame(world: World, alice: Endpoint, site: Endpoint) -> None:
    for _ in range(50):
        alice.send(AT_SITE, TASK)
    messages = site.receive(0)
    assert len(messages) == 50
    before = len(world.passed)
    site.settle(messages)
    assert len(world.passed) == before + 1
    alice.receive(0)
    assert alice.undelivered() == 0


def test_a_restarted_party_sends_what_it_owes_and_knows_what_it_took(world: World, alice: Endpoint) -> None:
    store = MemoryStore()
    site = world.endpoint(SITE, AT_SITE, "node", store)
    alice.send(AT_SITE, TASK)
    messages = site.receive(0)
    reply = site.prepare(AT_ALICE, Result(of=messages[0].id, key="k", ok=True))
    store.add(reply)
    store.mark_seen(seen_entries(messages))
    site.stop()  # before the reply was posted and the receipt sent
    again = world.endpoint(SITE, AT_SITE, "node", store)
    (answer,) = alice.receive(0)
    assert answer.id == reply.id
    world.clock.now += FIRST_RESEND_S
    alice.receive(0)
    assert again.receive(0) == []
    alice.receive(0)
    assert alice.undelivered() == 0


def test_an_expired_message_is_given_up_and_dropped_from_the_store(world: World, site: Endpoint) -> None:
    store = MemoryStore()
    alice = world.endpoint(ALICE, AT_ALICE, "researcher", store)
    id_ = alice.send(Address("nobody"), TASK, ttl_s=5)
    assert [outgoing.id for outgoing in store.outgoing()] == [id_]
    world.clock.now += 6
    alice.receive(0)
    assert (world.given_up, store.outgoing(), alice.undelivered()) == ([id_], [], 0)


def test_withdrawn_messages_are_not_sent_again(world: World, alice: Endpoint, site: Endpoint) -> None:
    world.lose = 1
    alice.withdraw([alice.send(AT_SITE, TASK)])
    world.clock.now += 100
    assert alice.receive(0) == []
    assert site.receive(0) == []


def test_while_the_broker_is_away_messages_wait_and_go_out_when_it_is_back(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    world.broker.stop()
    assert not alice.connected
    alice.send(AT_SITE, TASK)
    alice.receive(0)
    world.broker.start()
    alice.receive(0)
    assert len(site.receive(0)) == 1
    world.broker.stop()
    with pytest.raises(BrokerUnreachable):
        world.endpoint(BOB, AT_BOB, "researcher")


def test_pings_reach_every_node_and_their_answers_the_asker(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    clinic = world.endpoint(CLINIC, AT_CLINIC, "node")
    bob = world.endpoint(BOB, AT_BOB, "researcher")
    asked = alice.send(None, Ping())
    for node in (site, clinic):
        (ping,) = node.receive(0)
        node.send(AT_ALICE, Pong(of=ping.id))
    assert {(m.sender, m.body.of) for m in alice.receive(0) if isinstance(m.body, Pong)} == {
        ("site", asked), ("clinic", asked),
    }  # fmt: skip
    assert bob.receive(0) == []
    assert alice.undelivered() == site.undelivered() == 0


def test_a_message_that_is_too_large_is_refused_before_it_is_sent(alice: Endpoint) -> None:
    with pytest.raises(EncodeError):
        alice.send(AT_SITE, replace(TASK, values={"x": bytes(MAX_FRAME_BYTES)}))
    assert alice.undelivered() == 0


def test_receive_wakes_at_once_on_a_frame_and_on_wake() -> None:
    broker = MemoryBroker()
    site = Endpoint(SITE, "fed", ROSTER, MemoryTransport(broker, AT_SITE), MemoryStore(), "node")
    alice = Endpoint(ALICE, "fed", ROSTER, MemoryTransport(broker, AT_ALICE), MemoryStore(), "researcher")
    site.start()
    alice.start()
    for act in (site.wake, lambda: alice.send(AT_SITE, TASK)):
        timer = threading.Timer(0.05, act)
        timer.start()
        site.receive(60)  # the test's own deadline is the judge
        timer.join()
    assert site.receive(0) == []


# --- the gate ---------------------------------------------------------------------------


def frame(world: World, identity: Identity, body: Body, *, federation: str = "fed", **header: Any) -> bytes:
    wall = 1.7e9 + world.clock.now
    fields: dict[str, Any] = {
        "to": "site/main", "id": "0" * 32, "reply_to": f"{identity.party}/s1", "issued": wall, "expires": wall + 60,
    }  # fmt: skip
    message = Message(body=body, **{**fields, **header})
    return encode_frame(identity, federation, encode_payload(message))


def changed(world: World, change: Callable[[dict[str, Any]], Any]) -> bytes:
    payload = unpack(encode_payload(Message(to="site/main", id="0" * 32, body=TASK, reply_to="alice/s1")))
    payload["expires"] = 1.7e9 + world.clock.now + 60
    change(payload)
    return encode_frame(ALICE, "fed", pack(payload))


def unsigned(data: bytes, signature: bytes = bytes(64)) -> bytes:
    version, federation, sender, _, payload = unpack(data)
    return pack([version, federation, sender, signature, payload])


BAD: dict[str, tuple[str, Callable[[World], bytes]]] = {
    "too large": ("oversized", lambda w: bytes(MAX_FRAME_BYTES + 1)),
    "noise": ("malformed", lambda w: b"\xc1\xff"),
    "empty": ("malformed", lambda w: b""),
    "a stranger's": ("unknown_sender", lambda w: frame(w, STRANGER, TASK)),
    "signed by another": ("bad_signature", lambda w: frame(w, Identity("alice", BOB._key), TASK)),
    "unsigned": ("bad_signature", lambda w: unsigned(frame(w, ALICE, TASK))),
    "signed by nobody": ("malformed", lambda w: unsigned(frame(w, ALICE, TASK), b"")),
    "to another node": ("foreign", lambda w: frame(w, ALICE, TASK, to="clinic/main")),
    "a task to everybody": ("foreign", lambda w: frame(w, ALICE, TASK, to="")),
    "of another federation": ("foreign", lambda w: frame(w, ALICE, TASK, federation="other")),
    "under another's topic": ("foreign", lambda w: frame(w, BOB, TASK, reply_to="bob/s2")),
    "expired": (
        "expired",
        lambda w: frame(w, ALICE, TASK, expires=1.7e9 + w.clock.now - CLOCK_TOLERANCE_S - 1),
    ),
    "everlasting": ("expired", lambda w: frame(w, ALICE, TASK, expires=1.7e9 + w.clock.now + 2 * MAX_TTL_S)),
    "expiring never": ("expired", lambda w: frame(w, ALICE, TASK, expires=float("nan"))),
    "a reply of a researcher": ("role", lambda w: frame(w, ALICE, Result(of="x", key="k", ok=True))),
    "an event of a researcher": ("role", lambda w: frame(w, ALICE, Event(type="lease"))),
    "an odd id": ("schema", lambda w: frame(w, ALICE, TASK, id="../x")),
    "receipts for another party": ("schema", lambda w: frame(w, ALICE, TASK, reply_to="bob/s1")),
    "receipts for nobody": ("schema", lambda w: frame(w, ALICE, TASK, reply_to="")),
    "receipts for a wildcard": ("schema", lambda w: frame(w, ALICE, TASK, reply_to="alice/+")),
    "no map": ("schema", lambda w: encode_frame(ALICE, "fed", pack([1]))),
    "no msgpack": ("schema", lambda w: encode_frame(ALICE, "fed", b"\xc1")),
    "a missing field": ("schema", lambda w: changed(w, lambda p: p.pop("epoch"))),
    "a wrong type": ("schema", lambda w: changed(w, lambda p: p.update(round="1"))),
    "a body that is none": ("schema", lambda w: changed(w, lambda p: p.update(body={"dataset": 5}))),
}


@pytest.mark.feature("BF-44")
@pytest.mark.parametrize("what", sorted(BAD))
def test_a_bad_frame_changes_nothing_is_counted_and_not_answered(
    what: str, world: World, site: Endpoint
) -> None:
    cause, make = BAD[what]
    MemoryTransport(world.broker, Address("alice", "raw")).open(lambda s, f: None, timeout_s=1)
    before = len(world.passed)
    world.broker._pass("alice" if what != "a stranger's" else "stranger", AT_SITE, make(world))
    assert site.receive(0) == []
    assert site.counters == {cause: 1}
    assert len(world.passed) == before + 1, "it was answered"


def test_a_party_that_enrolled_anew_is_heard_under_its_new_key(world: World, site: Endpoint) -> None:
    again = Identity.generate("alice")
    old = {"alice": Entry("researcher", ALICE.public_key_hex)}
    new = {"alice": Entry("researcher", again.public_key_hex)}
    gate = FrameChecks("fed", AT_SITE, "node", Roster(old, lambda: new, clock=world.clock), SITE.sealing)
    wall = 1.7e9 + world.clock.now
    message = gate.open("alice", frame(world, again, TASK), now=0.0, wall=wall)
    assert message.sender == "alice"
    with pytest.raises(Dropped, match="bad_signature"):
        gate.open("alice", frame(world, ALICE, TASK), now=0.0, wall=wall)


def test_a_researcher_hears_no_researcher_and_a_node_no_node(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    bob = world.endpoint(BOB, AT_BOB, "researcher")
    clinic = world.endpoint(CLINIC, AT_CLINIC, "node")
    bob.send(AT_ALICE, TASK)
    clinic.send(AT_SITE, Result(of="x", key="k", ok=True))
    assert alice.receive(0) == site.receive(0) == []
    assert alice.counters == site.counters == {"role": 1}


def test_a_recorded_frame_played_again_is_refused_for_as_long_as_it_would_be_valid(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    alice.send(AT_SITE, End(outcome="completed"), ttl_s=100)
    site.settle(site.receive(0))
    recorded = world.passed[0][1]
    for _ in range(80):
        world.clock.now += 5
        for _ in range(3):
            alice.send(AT_SITE, Ping())
        world.broker._pass("alice", AT_SITE, recorded)
        messages = site.receive(0)
        assert not any(isinstance(m.body, End) for m in messages)
        site.settle(messages)
    assert site.counters["replayed"] + site.counters["expired"] == 80
    assert site.counters["expired"] <= 1


@pytest.mark.parametrize("body", [Ping(), Search(tags=["x"]), Offer(dataset="d", protocol="fedavg")])
def test_a_flood_of_unsolicited_messages_is_cut_to_the_rate(
    body: Body, world: World, alice: Endpoint, site: Endpoint
) -> None:
    for _ in range(150):
        alice.send(AT_SITE, body, reliable=False)
    assert len(site.receive(0)) == 100
    assert site.counters["flooded"] == 50
    bob = world.endpoint(BOB, AT_BOB, "researcher")
    bob.send(AT_SITE, body, reliable=False)
    assert [m.sender for m in site.receive(0)] == ["bob"]
    world.clock.now += 1
    for _ in range(30):
        alice.send(AT_SITE, body, reliable=False)
    assert len(site.receive(0)) == 20


REPLAYED: dict[str, tuple[Body, float]] = {
    "ping": (Ping(), 100),
    "search": (Search(tags=["x"]), 100),
    "offer": (Offer(dataset="d", protocol="fedavg"), 100),
    "end": (End(outcome="completed"), 200),
    "task": (TASK, 1000),
}


@pytest.mark.parametrize("kind", REPLAYED)
def test_a_frame_played_again_takes_nothing_from_what_its_sender_may_send(
    kind: str, world: World, alice: Endpoint, site: Endpoint
) -> None:
    body, at_once = REPLAYED[kind]
    alice.send(AT_SITE, body)
    (first,) = site.receive(0)
    site.settle([first])
    (recorded,) = [data for sender, data in world.passed if sender == "alice"]
    for _ in range(3):
        for _ in range(500):
            world.broker._pass("alice", AT_SITE, recorded)
            assert site.receive(0) == []
    fresh = int(at_once) - 1
    for _ in range(fresh):
        alice.send(AT_SITE, body)
        world.broker._pass("alice", AT_SITE, recorded)
    got: list[Message] = []
    for _ in range(10):
        got += site.receive(0)
    assert len(got) == fresh
    assert not site.counters["flooded"]
    assert site.counters["replayed"] >= 1500


def test_a_frame_played_again_in_another_encoding_is_known_again(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    """Whoever replays may change the bytes around those that are signed."""
    alice.send(AT_SITE, Ping())
    assert len(site.receive(0)) == 1
    (recorded,) = [data for sender, data in world.passed if sender == "alice"]
    signature = unpack(recorded)[3]
    longer = recorded.replace(b"\xc4\x40" + signature, b"\xc5\x00\x40" + signature)
    assert longer != recorded
    assert unpack(longer) == unpack(recorded)
    for data in (longer, recorded) * 150:
        world.broker._pass("alice", AT_SITE, data)
        site.receive(0)
    assert site.counters == {"replayed": 300}


def test_a_frame_that_waits_to_be_read_is_not_kept_twice(world: World, site: Endpoint) -> None:
    """While a party is busy, nobody fills the place of another with what that sent before."""
    recorded = [frame(world, ALICE, Ping(), id=f"{k:032x}") for k in range(5)]
    for _ in range(4000):
        for data in recorded:
            world.broker._pass("alice", AT_SITE, data)
    world.broker._pass("alice", AT_SITE, frame(world, ALICE, TASK, id="f" * 32))
    assert [message.body.kind for message in site.receive(0)] == ["ping"] * 5 + ["task"]
    assert site.counters == {"replayed": 4000 * 5 - 5}


def test_a_party_that_plays_anothers_frames_again_under_its_own_name_stops_nobodys_receipts(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    id_ = alice.send(AT_SITE, TASK)
    site.settle(site.receive(0))
    recorded = world.passed[0][1]
    for _ in range(3000):
        world.broker._pass("bob", AT_SITE, recorded)
        site.receive(0)
    assert site.counters == {"foreign": 3000}
    world.clock.now += 1
    world.broker._pass("alice", AT_SITE, recorded)  # sent again, as the receipt did not arrive
    site.receive(0)
    alice.receive(0)
    assert world.receipts == [id_]


def test_of_frames_played_again_few_are_verified_and_those_are_receipted(
    world: World, alice: Endpoint, site: Endpoint
) -> None:
    alice.send(AT_SITE, TASK)
    site.settle(site.receive(0))
    recorded = world.passed[0][1]
    sent = len(world.passed)
    for _ in range(3000):
        world.broker._pass("alice", AT_SITE, recorded)
        site.receive(0)
    receipts = len([sender for sender, _ in world.passed[sent:] if sender == "site"])
    assert receipts == REPEATS_AT_ONCE
    world.clock.now += 1
    world.broker._pass("alice", AT_SITE, recorded)
    site.receive(0)
    assert len([sender for sender, _ in world.passed[sent:] if sender == "site"]) == receipts + 1


def test_frames_that_are_older_than_the_memory_have_an_allowance_of_their_own(world: World) -> None:
    """Whoever replays more than a party can remember empties that of the old ones, and not that of the new ones."""
    gate = FrameChecks(
        "fed", AT_SITE, "node", ROSTER, SITE.sealing, FrameMemory(max_frames=80, max_of_sender=40)
    )

    def open_(data: bytes) -> str:
        try:
            gate.open("alice", data, now=world.clock.now, wall=1.7e9 + world.clock.now)
        except Dropped as drop:
            return drop.cause
        return "taken"

    recorded = []
    for k in range(200):
        world.clock.now += 0.1
        recorded.append(frame(world, ALICE, Ping(), id=f"{k:032x}"))
        assert open_(recorded[-1]) == "taken"
    flood = Counter(open_(data) for _ in range(10) for data in recorded)
    assert flood["flooded"] > 0
    assert flood["taken"] <= 100
    for k in range(90):
        world.clock.now += 0.01
        assert open_(frame(world, ALICE, Ping(), id=f"{k + 1000:032x}")) == "taken", k
        assert open_(recorded[k]) in ("flooded", "replayed", "taken")


def test_tasks_are_not_limited_in_rate(alice: Endpoint, site: Endpoint) -> None:
    for _ in range(250):
        alice.send(AT_SITE, TASK)
    assert len(site.receive(0)) == 250


def test_the_inbox_is_bounded(world: World, site: Endpoint) -> None:
    for k in range(5_050):
        world.broker._pass("alice", AT_SITE, b"%d" % k)
    assert site.counters["overflow"] == 50, "one sender leaves room for the others"
    for k in range(5_000):
        world.broker._pass("bob", AT_SITE, b"%d" % k)
    assert site.counters["overflow"] == 50
    world.broker._pass("carol", AT_SITE, b"x")
    assert site.counters["overflow"] == 51
    site.receive(0)
    world.broker._pass("alice", AT_SITE, b"x")
    assert site.counters["overflow"] == 51


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_whatever_get_through(noise: bytes) -> None:
    world = World()
    site = world.endpoint(SITE, AT_SITE, "node")
    world.broker._pass("alice", AT_SITE, noise)
    world.broker._pass("alice", AT_SITE, encode_frame(ALICE, "fed", noise))
    assert site.receive(0) == []
    assert sum(site.counters.values()) == 2
