"""Everything that a hub can answer in the place of the roster: it can withhold, and invent nothing.

One corpus, at a node's home and at a researcher's: what a lie changes at most is that something is not known yet.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership
from fedjob.identity.pinned_roster import ROSTER_NAME, PinnedRoster
from fedjob.identity.roster import Role, Roster
from fedjob.identity.statements.key_file import FederationKey
from fedjob.identity.statements.pin import RosterRefused
from fedjob.identity.statements.roster_statement import DAY_S, RosterParty
from fedjob.identity.statements.signed import KeySignature, Signed, canonical
from fedjob.identity.statements.succession import Succession
from fedjob.messaging.frame import encode_frame
from fedjob.messaging.frame_checks import Dropped, FrameChecks
from fedjob.messaging.messages import Event, Message, Ping, encode_payload
from fedjob.node.daemon.sums import signed_by_nodes_of
from fedjob.privacy.secagg.key_agreement import check_keys, private_key, signed_keys
from tests.federations import SignedFederation, answer
from tests.secure_sums import terms_for

HEART = SignedFederation("ann", "clinic", "ward")
MALLORY = Identity.generate("clinic")
OTHER = SignedFederation("ann", "clinic", "ward", federation="fed_" + "cd" * 8)
THIEF = FederationKey.generate()


def forged(change: Callable[[dict[str, Any]], None], **more: Any) -> dict[str, Any]:
    """Return an answer whose roster was changed after it was signed."""
    signed = HEART.roster(4)
    content = json.loads(signed.payload)
    change(content)
    return answer(replace(signed, payload=canonical(content)), **more)


def of_party(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        next(row for row in content["parties"] if row["party"] == name).update(changes)

    return change


def invent(content: dict[str, Any]) -> None:
    content["parties"].insert(2, to_plain(RosterParty("mallory", "researcher", MALLORY.public_key_hex)))


def swap_roles(content: dict[str, Any]) -> None:
    for row in content["parties"]:
        row["role"] = {"node": "researcher", "researcher": "node"}[row["role"]]


def swap_keys(content: dict[str, Any]) -> None:
    one, other = content["parties"][1:3]
    one["key_hex"], other["key_hex"] = other["key_hex"], one["key_hex"]


def cut(signed: Signed) -> dict[str, Any]:
    plain = signed.to_plain()
    plain["payload"] = base64.b64encode(signed.payload[: len(signed.payload) // 2]).decode()
    return answer() | {"roster": plain}


def twice(signed: Signed) -> Signed:
    return replace(signed, signatures=signed.signatures * 3)


def stranger_signs(statement: Any) -> Signed:
    return HEART.sign(statement, [THIEF])


def stolen_succession(before: Identity, party: str) -> Signed:
    new = Identity.generate(party)
    return Succession(
        HEART.keys.federation, party, HEART.identities[party].public_key_hex, new.public_keys
    ).statement(before, new)


def thieves_keys() -> list[Any]:
    new = replace(HEART.keys, number=2, keys=(THIEF.public_hex,))
    return [new.statement().signed_by(THIEF.public_hex, THIEF.sign).to_plain()]


HEART_SIGNED = HEART.statement(4)
LIES: dict[str, tuple[str, Callable[[], Any]]] = {
    "a node's key is replaced": (
        "key_changed",
        lambda: forged(of_party("clinic", key_hex=MALLORY.public_key_hex)),
    ),
    "a researcher's key is replaced": (
        "key_changed",
        lambda: forged(of_party("ann", key_hex=MALLORY.public_key_hex)),
    ),
    "a key to encrypt for is replaced": (
        "key_changed",
        lambda: forged(of_party("clinic", sealing_hex=MALLORY.sealing.public_key_hex)),
    ),
    "a certificate is replaced": ("key_changed", lambda: forged(of_party("clinic", certificate="ef" * 32))),
    "a party is invented": ("key_changed", lambda: forged(invent)),
    "roles are swapped": ("key_changed", lambda: forged(swap_roles)),
    "keys are swapped": ("key_changed", lambda: forged(swap_keys)),
    "a party is left out": ("key_changed", lambda: forged(lambda content: content["parties"].pop())),
    "a revocation is taken back": (
        "key_changed",
        lambda: forged(of_party("ward", revoked=False, valid_until=1)),
    ),
    "the validity is longer": (
        "key_changed",
        lambda: forged(lambda c: c.update(valid_until=c["valid_until"] + DAY_S)),
    ),
    "the number is of the future": ("key_changed", lambda: forged(lambda c: c.update(number=9_000))),
    "the number is too large": ("malformed", lambda: forged(lambda c: c.update(number=1 << 60))),
    "the number is no number": ("malformed", lambda: forged(lambda c: c.update(number="4"))),
    "the federation is another": (
        "foreign",
        lambda: forged(lambda c: c.update(federation=OTHER.keys.federation)),
    ),
    "a field is added": ("malformed", lambda: forged(lambda c: c.update(note="hello"))),
    "a role is invented": ("malformed", lambda: forged(of_party("clinic", role="coordinator"))),
    "a name is a path": ("malformed", lambda: forged(of_party("clinic", party="../ward"))),
    "a party stands there twice": (
        "malformed",
        lambda: forged(lambda c: c["parties"].append(c["parties"][0])),
    ),
    "another federation's roster": ("foreign", lambda: answer(OTHER.roster(4))),
    "an older roster": ("older", lambda: answer(HEART.roster(2))),
    "the first roster again": ("older", lambda: answer(HEART.roster(1))),
    "another roster under the same number": ("older", lambda: answer(HEART.roster(3, [HEART.party("ann")]))),
    "an expired roster": (
        "expired",
        lambda: answer(
            HEART.roster(4, created=int(time.time()) - 9 * DAY_S, valid_until=int(time.time()) - DAY_S)
        ),
    ),
    "a roster of the future": (
        "future",
        lambda: answer(
            HEART.roster(4, created=int(time.time()) + 9 * DAY_S, valid_until=int(time.time()) + 10 * DAY_S)
        ),
    ),
    "an unsigned roster": ("unsigned", lambda: answer(HEART_SIGNED.statement())),
    "a roster signed by a stranger": ("key_changed", lambda: answer(stranger_signs(HEART_SIGNED))),
    "a roster signed by a party": (
        "key_changed",
        lambda: answer(HEART_SIGNED.statement().signed_by(MALLORY.public_key_hex, MALLORY.sign)),
    ),
    "a stranger's signature under the federation's name": (
        "key_changed",
        lambda: answer(
            replace(
                HEART_SIGNED.statement(),
                signatures=(
                    KeySignature(HEART.keys.keys[0], stranger_signs(HEART_SIGNED).signatures[0].signature),
                ),
            )
        ),
    ),
    "the signature of another roster": (
        "key_changed",
        lambda: answer(replace(HEART_SIGNED.statement(), signatures=HEART.roster(5).signatures)),
    ),
    "a truncated roster": ("malformed", lambda: cut(HEART.roster(4))),
    "a roster with a byte more": (
        "malformed",
        lambda: answer(replace(HEART.roster(4), payload=HEART.roster(4).payload + b" ")),
    ),
    "an empty roster": ("malformed", lambda: answer(Signed("fedjob roster 1", b""))),
    "other keys of the federation": ("key_changed", lambda: answer(keys=thieves_keys())),
    "other keys, and a roster signed with them": (
        "key_changed",
        lambda: answer(stranger_signs(HEART_SIGNED), keys=thieves_keys()),
    ),
    "no answer of a hub": ("", dict),
    "a list": ("", lambda: [1, 2]),
    "a number": ("", lambda: 7),
    "a roster of another kind": (
        "",
        lambda: answer() | {"roster": {**HEART.roster(4).to_plain(), "kind": "x"}},
    ),
    "a roster without signatures": (
        "",
        lambda: answer() | {"roster": {"kind": "fedjob roster 1", "payload": ""}},
    ),
    "a payload that is no base64": (
        "",
        lambda: answer() | {"roster": {**HEART.roster(4).to_plain(), "payload": "*"}},
    ),
    "a thousand signatures": (
        "",
        lambda: answer(replace(HEART.roster(4), signatures=HEART.roster(4).signatures * 1000)),
    ),
    "a new key signed by a thief": (
        "quiet",
        lambda: answer(successions=[stolen_succession(MALLORY, "clinic").to_plain()]),
    ),
    "a new key signed by another party": (
        "quiet",
        lambda: answer(successions=[stolen_succession(HEART.identities["ward"], "clinic").to_plain()]),
    ),
    "nothing at all": ("quiet", lambda: answer()),
}


def home_of(folder: Path, role: str, federation: SignedFederation = HEART) -> PinnedRoster:
    party = "ann" if role == "researcher" else "ward"
    membership = Membership("http://127.0.0.1:9", federation.keys.federation, party, role, "00", "", "")
    return PinnedRoster(folder, membership, federation.keys)


@pytest.mark.parametrize("role", ["node", "researcher"])
@pytest.mark.parametrize("lie", LIES)
def test_a_hub_that_lies_changes_nothing_and_is_found_out(tmp_path: Path, lie: str, role: Role) -> None:
    home = home_of(tmp_path, role)
    home.take(answer(HEART.roster(3)))
    before, kept = dict(home.parties()), (tmp_path / ROSTER_NAME).read_bytes()
    cause, told = LIES[lie]
    if cause == "quiet":
        home.take(told())
    else:
        with pytest.raises((RosterRefused, DecodeError)) as caught:
            home.take(told())
        if cause:
            assert isinstance(caught.value, RosterRefused)
            assert caught.value.cause == cause
    assert dict(home.parties()) == before
    assert (tmp_path / ROSTER_NAME).read_bytes() == kept
    again = home_of(tmp_path, role)  # after a restart
    assert (dict(again.parties()), again.pin.number) == (before, 3)
    roster = Roster(again.parties(), pin=lambda: again.pin)
    own = "ann" if role == "researcher" else "ward"
    sealing = HEART.identities[own].sealing
    checks = FrameChecks(HEART.keys.federation, Address(own), role, roster, sealing)
    for identity in (MALLORY, Identity.generate("mallory"), OTHER.identities["ann"]):
        with pytest.raises(Dropped, match=r"unknown_sender|bad_signature"):
            checks.open(identity.party, frame_of(identity, role), now=0.0, wall=time.time())
    honest = HEART.identities["clinic" if role == "researcher" else "ann"]
    assert checks.open(honest.party, frame_of(honest, role), now=0.0, wall=time.time()).sender == honest.party


@pytest.mark.parametrize("lie", LIES)
def test_a_hub_that_lies_puts_no_key_of_its_own_into_a_secure_sum(tmp_path: Path, lie: str) -> None:
    home = home_of(tmp_path, "node")
    home.take(answer(HEART.roster(3)))
    asked = []

    def fetched() -> Mapping[str, RosterParty]:
        asked.append(lie)
        home.take(LIES[lie][1]())
        return home.parties()

    is_signed = signed_by_nodes_of(Roster(home.parties(), fetched, pin=lambda: home.pin))
    terms = terms_for(3)
    honest = {
        name: signed_keys(terms, name, private_key(), private_key(), b"lot", HEART.identities[name].sign)
        for name in ("clinic", "ward")
    }
    forger = {"hub": MALLORY, "researcher": HEART.identities["ann"], "stranger": Identity.generate("mallory")}
    for identity in forger.values():
        forged = signed_keys(terms, "clinic", private_key(), private_key(), b"lot", identity.sign)
        own = signed_keys(terms, identity.party, private_key(), private_key(), b"lot", identity.sign)
        for keys in ({**honest, "clinic": forged}, {**honest, identity.party: own}):
            with pytest.raises(SpecError, match="not signed by the key that the roster has"):
                check_keys(keys, terms, is_signed)
    assert asked, "the hub was not asked, so that it could not lie"
    check_keys(honest, terms, is_signed)


def frame_of(sender: Identity, role: Role) -> bytes:
    body: Event | Ping = Event(type="state") if role == "researcher" else Ping()
    to = "ann/main" if role == "researcher" else "ward/main"
    message = Message(
        to=to, id="ab" * 16, body=body, reply_to=f"{sender.party}/main", expires=time.time() + 60
    )
    return encode_frame(sender, HEART.keys.federation, encode_payload(message))
