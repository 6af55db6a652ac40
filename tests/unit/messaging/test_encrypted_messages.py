"""Messages that only their addressee can read: what the broker carries, what is refused, and who may answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError
from fedjob.common.types import MAX_FRAME_BYTES, Address
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Role, Roster
from fedjob.identity.seals.hpke import OVERHEAD_BYTES, decrypt, encrypt_for
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame import decode_frame, encode_frame
from fedjob.messaging.frame_checks import RATES
from fedjob.messaging.messages import (
    MAX_PAYLOAD_BYTES,
    Body,
    Event,
    Found,
    Message,
    Ping,
    Pong,
    Search,
    Task,
    encode_payload,
)
from fedjob.messaging.outbox import MemoryStore
from fedjob.messaging.sealed_payload import seal_payload
from fedjob.messaging.transport.memory import MemoryBroker, MemoryTransport

ALICE, BOB, SITE, CLINIC = (Identity.generate(name) for name in ("alice", "bob", "site", "clinic"))
AT_ALICE, AT_SITE, AT_CLINIC = Address("alice", "s1"), Address("site"), Address("clinic")
CANARY = "canary-4711"
TASK = Task(dataset=CANARY, protocol="fedavg", values={CANARY: CANARY}, training_args={"word": CANARY})
NOW = 1.7e9


@dataclass(frozen=True)
class Entry:
    role: str
    key_hex: str
    sealing_hex: str
    revoked: bool = False
    valid_from: float = 0.0
    valid_until: float = 0.0


def entry(identity: Identity, role: str) -> Entry:
    return Entry(role, identity.public_key_hex, identity.sealing.public_key_hex)


PARTIES = {
    "alice": entry(ALICE, "researcher"),
    "bob": entry(BOB, "researcher"),
    "site": entry(SITE, "node"),
    "clinic": entry(CLINIC, "node"),
}


class World:
    """A broker that remembers what it carried."""

    def __init__(self) -> None:
        self.passed: list[bytes] = []
        self.broker = MemoryBroker(self._fate)

    def _fate(self, sender: str, to: Address | None, frame: bytes) -> int:
        self.passed.append(frame)
        return 1

    def endpoint(
        self,
        identity: Identity,
        address: Address,
        role: Role,
        *,
        encrypted: bool = True,
        parties: dict[str, Entry] = PARTIES,
    ) -> Endpoint:
        made = Endpoint(
            identity,
            "fed",
            Roster(parties),
            MemoryTransport(self.broker, address),
            MemoryStore(),
            role,
            clock=lambda: 1000.0,
            wall=lambda: NOW,
        )
        made.encrypted = encrypted
        made.start()
        return made


@pytest.fixture
def world() -> World:
    return World()


def sealed(
    body: Body = TASK,
    *,
    by: Identity = ALICE,
    signed_by: Identity | None = None,
    reader: Identity = SITE,
    federation: str = "fed",
    inside: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], object] = lambda head: None,
) -> bytes:
    """Return a frame with an encrypted message of `by`, changed after it was encrypted and signed by `signed_by`."""
    fields = {"to": "site/main", "id": "0" * 32, "reply_to": "alice/s1", "issued": NOW, "expires": NOW + 60}
    payload = encode_payload(Message(body=body, **{**fields, **(inside or {})}))
    key_hex = reader.sealing.public_key_hex
    head = unpack(seal_payload(payload, federation="fed", sender=by.party, to="site/main", key_hex=key_hex))
    change(head)
    return encode_frame(signed_by or by, federation, pack(head))


def test_nothing_of_a_message_is_on_the_broker_but_who_writes_to_whom_when_and_of_what_kind(
    world: World,
) -> None:
    alice, site = world.endpoint(ALICE, AT_ALICE, "researcher"), world.endpoint(SITE, AT_SITE, "node")
    alice.send(AT_SITE, TASK, job="job-of-canary-4711", step=CANARY)
    (message,) = site.receive(0)
    assert (message.body, message.job, message.step) == (TASK, "job-of-canary-4711", CANARY)
    site.settle([message])
    site.send(AT_ALICE, Event(type="log", data={"text": CANARY}), job="job-of-canary-4711")
    assert [m.body.data for m in alice.receive(0) if isinstance(m.body, Event)] == [{"text": CANARY}]
    assert alice.undelivered() == 0, "the receipt was not read"
    assert len(world.passed) == 3
    for frame in world.passed:
        assert CANARY.encode() not in frame
        head = unpack(decode_frame(frame).payload)
        assert set(head) == {"to", "kind", "issued", "expires", "sealed"}


def test_the_same_message_is_on_the_broker_in_plain_where_nobody_encrypts(world: World) -> None:
    alice = world.endpoint(ALICE, AT_ALICE, "researcher", encrypted=False)
    alice.send(AT_SITE, TASK)
    assert any(CANARY.encode() in frame for frame in world.passed)


def test_a_search_goes_to_each_node_by_itself_and_so_do_the_names_of_data_in_the_answers(
    world: World,
) -> None:
    alice = world.endpoint(ALICE, AT_ALICE, "researcher")
    nodes = [world.endpoint(SITE, AT_SITE, "node"), world.endpoint(CLINIC, AT_CLINIC, "node")]
    asked = alice.send(None, Search(tags=[CANARY]))
    for node in nodes:
        (search,) = node.receive(0)
        assert search.id == asked
        node.send(AT_ALICE, Found(of=search.id, datasets=[{"name": CANARY}]))
    answers = {m.sender: m.body.datasets for m in alice.receive(0) if isinstance(m.body, Found)}
    assert answers == {node: [{"name": CANARY}] for node in ("site", "clinic")}
    assert len(world.passed) == 4
    assert not any(CANARY.encode() in frame for frame in world.passed)


def test_the_largest_message_fits_into_a_frame_when_it_is_encrypted(world: World) -> None:
    alice, site = world.endpoint(ALICE, AT_ALICE, "researcher"), world.endpoint(SITE, AT_SITE, "node")
    body = replace(TASK, values={"x": bytes(MAX_PAYLOAD_BYTES - 1600)})
    alice.send(AT_SITE, body)
    assert site.receive(0)[0].body == body
    assert MAX_PAYLOAD_BYTES - 1024 < len(world.passed[0]) - OVERHEAD_BYTES < MAX_FRAME_BYTES


def test_a_key_that_is_none_is_the_loss_of_its_party_alone(world: World) -> None:
    parties = {**PARTIES, "site": replace(PARTIES["site"], sealing_hex="ab" * 1216)}
    parties["clinic"] = replace(parties["clinic"], sealing_hex="no key")
    alice = world.endpoint(ALICE, AT_ALICE, "researcher", parties={**parties, "ward": entry(SITE, "node")})
    alice.send(None, Ping())
    assert len(world.passed) + alice.counters["no_key"] == 3
    assert alice.counters["no_key"] >= 1


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "encrypted for another node": ("undecryptable", lambda: sealed(reader=CLINIC)),
    "another's bytes, signed anew": ("undecryptable", lambda: sealed(signed_by=BOB)),
    "bytes of another federation": ("foreign", lambda: sealed(federation="other")),
    "a changed kind": ("undecryptable", lambda: sealed(change=lambda head: head.update(kind="offer"))),
    "a later end": ("undecryptable", lambda: sealed(change=lambda head: head.update(expires=NOW + 3000))),
    "another time": ("undecryptable", lambda: sealed(change=lambda head: head.update(issued=NOW - 1))),
    "no time": ("undecryptable", lambda: sealed(change=lambda head: head.pop("issued"))),
    "another addressee": ("foreign", lambda: sealed(change=lambda head: head.update(to="clinic/main"))),
    "everybody": ("foreign", lambda: sealed(change=lambda head: head.update(to=""))),
    "a map for a time": (
        "undecryptable",
        lambda: sealed(change=lambda head: head.update(issued={"a": [b"x"]})),
    ),
    "a huge time": ("undecryptable", lambda: sealed(change=lambda head: head.update(issued=float("inf")))),
    "no bytes": ("undecryptable", lambda: sealed(change=lambda head: head.update(sealed=b""))),
    "no bytes at all": ("undecryptable", lambda: sealed(change=lambda head: head.update(sealed="x"))),
    "half of the bytes": (
        "undecryptable",
        lambda: sealed(change=lambda head: head.update(sealed=head["sealed"][:600])),
    ),
    "inside for another node": ("schema", lambda: sealed(inside={"to": "clinic/main"})),
    "an odd id inside": ("schema", lambda: sealed(inside={"id": "../x"})),
    "receipts for another inside": ("schema", lambda: sealed(inside={"reply_to": "bob/s1"})),
    "an answer of a researcher": ("role", lambda: sealed(Pong(of="x"))),
    "expired": ("expired", lambda: sealed(inside={"expires": NOW - 1000.0})),
}


@pytest.mark.parametrize("what", sorted(BAD))
@pytest.mark.parametrize("encrypted", [True, False])
def test_an_encrypted_frame_that_is_not_right_is_dropped_counted_and_not_answered(
    what: str, encrypted: bool, world: World
) -> None:
    cause, make = BAD[what]
    site = world.endpoint(SITE, AT_SITE, "node", encrypted=encrypted)
    frame = make()
    world.broker._pass(decode_frame(frame).sender, AT_SITE, frame)
    assert site.receive(0) == []
    assert site.counters == {cause: 1}
    assert len(world.passed) == 1, "it was answered"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_bit_of_an_encrypted_message_can_be_changed_by_its_own_sender_either(data: st.DataObject) -> None:
    """What was encrypted is read as it was, or not at all, even under a right signature."""

    def flip(head: dict[str, Any]) -> None:
        at = data.draw(st.integers(0, len(head["sealed"]) - 1))
        changed = bytearray(head["sealed"])
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        head["sealed"] = bytes(changed)

    world = World()
    site = world.endpoint(SITE, AT_SITE, "node")
    world.broker._pass("alice", AT_SITE, sealed(change=flip))
    assert site.receive(0) == []
    assert site.counters == {"undecryptable": 1}


def test_a_node_that_requires_encryption_drops_a_plain_message_whoever_brings_it(world: World) -> None:
    site = world.endpoint(SITE, AT_SITE, "node")
    alice = world.endpoint(ALICE, AT_ALICE, "researcher", encrypted=False)
    for body in (TASK, Ping()):
        alice.send(AT_SITE, body)
    alice.send(None, Search(tags=["x"]))
    assert site.receive(0) == []
    assert site.counters == {"plain": 3}
    assert site.plain_from == {"alice"}
    alice.encrypted = True
    alice.send(AT_SITE, Ping())
    assert len(site.receive(0)) == 1
    assert site.plain_from == set()


def test_a_researcher_that_requires_encryption_knows_who_answers_in_plain(world: World) -> None:
    site = world.endpoint(SITE, AT_SITE, "node", encrypted=False)
    alice = world.endpoint(ALICE, AT_ALICE, "researcher")
    alice.send(AT_SITE, Ping())
    (ping,) = site.receive(0)
    site.send(AT_ALICE, Pong(of=ping.id))
    assert alice.receive(0) == []
    assert (alice.counters, alice.plain_from) == ({"plain": 1}, {"site"})


def test_nothing_goes_out_plain_to_a_party_that_has_no_key_to_encrypt_for(world: World) -> None:
    parties = {**PARTIES, "site": replace(PARTIES["site"], sealing_hex="")}
    alice = world.endpoint(ALICE, AT_ALICE, "researcher", parties=parties)
    alice.send(AT_SITE, Ping())
    alice.send(Address("nobody"), Ping())
    assert world.passed == []
    assert alice.counters == {"no_key": 2}


def test_of_a_flood_no_more_is_decrypted_than_the_rate_allows(world: World) -> None:
    """What is over the rate is refused by its signed head, before the key is used."""
    site = world.endpoint(SITE, AT_SITE, "node")
    _, burst = RATES["ping"]
    for _ in range(int(burst) + 300):
        world.broker._pass("alice", AT_SITE, sealed(Ping(), reader=CLINIC))
    while site.receive(0):
        pass
    for _ in range(10):
        site.receive(0)
    assert site.counters["undecryptable"] == burst
    assert site.counters["flooded"] == 300


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_what_is_encrypted_for_a_key_is_read_by_its_holder_alone(data: bytes, info: bytes) -> None:
    encrypted = encrypt_for(SITE.sealing.public_key_hex, data, info)
    assert len(encrypted) == len(data) + OVERHEAD_BYTES
    assert decrypt(SITE.sealing, encrypted, info) == data
    for key, about in ((CLINIC.sealing, info), (SITE.sealing, info + b"x")):
        with pytest.raises(DecodeError):
            decrypt(key, encrypted, about)


@given(st.binary(max_size=2000))
def test_bytes_that_nobody_encrypted_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(DecodeError, match="can't be decrypted"):
        decrypt(SITE.sealing, data, b"")
