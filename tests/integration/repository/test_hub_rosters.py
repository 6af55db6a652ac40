"""A hub that keeps a signed roster: who may bring one, who may fetch it, and what a revocation ends there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError, NotPermitted, RepositoryError, SpecError
from fedjob.common.http_client import Web
from fedjob.coordinator.exchange import HubExchange, ToSign, exchange_of
from fedjob.coordinator.new_keys import NEXT_NAME, give_new_keys
from fedjob.coordinator.signing import rotated
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.rosters import RosterBook
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Invitation, load_membership
from fedjob.identity.pinned_roster import ROSTER_NAME, open_roster
from fedjob.identity.statements.key_file import FederationKey
from tests.federations import SignedFederation
from tests.hubs import HubThread


class Hospital:
    """A home that joined with an invitation of its own."""

    def __init__(
        self, hub: HubThread, heart: SignedFederation, folder: Path, name: str, role: str = "node"
    ) -> None:
        self.home, path = folder / name, folder / f"{name}.invitation"
        path.write_bytes(Invitation(hub.url, name, role, hub.parties.invite(name, role), heart.keys).dump())
        self.membership, self.identity = enrol_home(self.home, name, role, hub=None, invite=path)
        heart.identities[name] = self.identity


@pytest.fixture
def heart() -> SignedFederation:
    return SignedFederation()


@pytest.fixture
def hub(tmp_path: Path, heart: SignedFederation) -> Iterator[HubThread]:
    ledger = ledger_of(tmp_path / "hub", heart)
    ledger.close()
    with HubThread(tmp_path / "hub") as made:
        yield made


def ledger_of(folder: Path, heart: SignedFederation) -> HubDatabase:
    ledger = HubDatabase(folder / "hub.sqlite")
    RosterBook(ledger).adopt(heart.keys)
    assert ledger.federation == heart.keys.federation
    return ledger


def bring(hub: HubThread, heart: SignedFederation) -> HubExchange:
    key = heart.keys_in_hand[0]
    return exchange_of(
        home=None, hub=hub.url, tls_ca=None, proxy="", key=key, federation=heart.keys.federation
    )


def test_a_roster_reaches_homes_that_pinned_its_key_and_an_older_one_never_does(
    hub: HubThread, heart: SignedFederation, tmp_path: Path
) -> None:
    ward, ann = Hospital(hub, heart, tmp_path, "ward"), Hospital(hub, heart, tmp_path, "ann", "researcher")
    roster = open_roster(ward.home, ward.membership)
    assert (roster.is_pinned, roster.parties()) == (True, [])
    assert "ward is enrolled and waits for the federation's signature: ask Dr. Kim to run" in roster.waiting(
        "ward"
    )
    way = bring(hub, heart)
    assert [each.party for each in ToSign.of_plain(way.fetch()).parties] == ["ann", "ward"]
    assert "roster 1 is at the hub" in way.put("roster", heart.roster(1))
    time.sleep(1.1)  # as often as a roster is asked for
    assert roster.refresh()
    assert (roster.key_of("ann"), roster.waiting("ward")) == (ann.identity.public_key_hex, "")
    assert roster.sealing_key_of("ann") == ann.identity.sealing.public_key_hex
    way.put("roster", heart.roster(2, [heart.party("ward"), heart.party("ann", revoked=True)]))
    assert {m.party: m.revoked for m in hub.parties.all()} == {"ann": True, "ward": False}
    with pytest.raises(NotPermitted):
        open_roster(ann.home, ann.membership)  # her token is void
    again = open_roster(ward.home, load_membership(ward.home))
    assert (again.key_of("ann"), again.role_of("ward")) == (None, "node")
    with pytest.raises(NotPermitted, match="older than roster 2"):
        way.put("roster", heart.roster(1))
    # a hub that was restored from an old backup, or lies
    hub.ledger.write(lambda db: db.execute("DELETE FROM statements"))
    hub.ledger.write(
        lambda db: db.execute(
            "INSERT INTO statements VALUES ('fedjob roster 1', 1, '', ?)", (heart.roster(1).dump(),)
        )
    )
    after_restart = open_roster(ward.home, load_membership(ward.home))
    assert after_restart.key_of("ann") is None
    assert "older than roster 2" in after_restart.trouble()
    (ward.home / ROSTER_NAME).write_text("{")
    with pytest.raises(ConfigError, match=r"roster\.json is damaged"):
        open_roster(ward.home, load_membership(ward.home))


@pytest.mark.parametrize("how", ["unsigned", "stranger", "other federation", "member without a signature"])
def test_nobody_but_the_federation_brings_a_roster(
    hub: HubThread, heart: SignedFederation, tmp_path: Path, how: str
) -> None:
    ward = Hospital(hub, heart, tmp_path, "ward")
    stranger = FederationKey.generate()
    signed = {
        "unsigned": heart.statement(1).statement(),
        "stranger": heart.sign(heart.statement(1), [stranger]),
        "other federation": SignedFederation("ward", federation="fed_" + "00" * 8).roster(1),
        "member without a signature": heart.statement(1).statement(),
    }[how]
    way = exchange_of(home=ward.home, hub=None, tls_ca=None, proxy="", key=None, federation="")
    with pytest.raises((NotPermitted, RepositoryError), match=r"signed|federation"):
        way.put("roster", signed)
    assert open_roster(ward.home, ward.membership).parties() == []
    with pytest.raises(NotPermitted, match="proof of one of the federation's keys"):
        exchange_of(
            home=None, hub=hub.url, tls_ca=None, proxy="", key=stranger, federation=heart.keys.federation
        ).fetch()
    with pytest.raises(NotPermitted):
        HubExchange(Web(hub.url)).fetch()


def test_a_party_changes_its_keys_and_the_others_follow(
    hub: HubThread, heart: SignedFederation, tmp_path: Path
) -> None:
    ward, ann = Hospital(hub, heart, tmp_path, "ward"), Hospital(hub, heart, tmp_path, "ann", "researcher")
    bring(hub, heart).put("roster", heart.roster(1))
    Identity.load_or_create(ward.home / "keys" / NEXT_NAME, "ward")  # a try before was cut off here
    name, before, after = give_new_keys(ward.home)
    assert (name, before) == ("ward", ward.identity.public_key_hex)
    assert Identity.load_or_create(ward.home / "keys").public_key_hex == after != before
    assert not (ward.home / "keys" / NEXT_NAME).exists()
    roster = open_roster(ann.home, ann.membership)
    assert roster.key_of("ward") == after
    assert open_roster(ann.home, ann.membership, ask=False).key_of("ward") == after  # kept in the home
    found = ToSign.of_plain(bring(hub, heart).fetch())
    assert {each.party: each.keys.signing for each in found.parties}["ward"] == after
    assert len(found.successions) == 1


def test_the_keys_of_the_federation_change_and_homes_follow(
    hub: HubThread, heart: SignedFederation, tmp_path: Path
) -> None:
    ward = Hospital(hub, heart, tmp_path, "ward")
    bring(hub, heart).put("roster", heart.roster(1))
    open_roster(ward.home, ward.membership)
    new = FederationKey.generate()
    after, signed = rotated(heart.keys, heart.keys_in_hand, [new], 1)
    way = bring(hub, heart)
    assert "keys 2 is at the hub" in way.put("keys", signed)
    heart.keys, heart.keys_in_hand = after, [new]
    bring(hub, heart).put("roster", heart.roster(2))
    roster = open_roster(ward.home, ward.membership)
    assert f"pinned: roster 2 of heart, key {after.fingerprint}" in roster.describe()
    other = SignedFederation(federation=heart.keys.federation)
    path = tmp_path / "forged.invitation"
    path.write_bytes(
        Invitation(hub.url, "ward", "node", hub.parties.invite("ward", "node"), other.keys).dump()
    )
    with pytest.raises(ConfigError, match="names other keys of the federation"):
        enrol_home(ward.home, "ward", "node", hub=None, invite=path)


def test_a_hub_takes_the_keys_of_one_federation_and_no_others(
    tmp_path: Path, heart: SignedFederation
) -> None:
    ledger = ledger_of(tmp_path / "hub", heart)
    RosterBook(ledger).adopt(heart.keys)  # again: the same
    with pytest.raises(ConfigError, match="keys are changed by `fedjob federation rotate`"):
        RosterBook(ledger).adopt(SignedFederation(federation="fed_" + "00" * 8).keys)
    ledger.close()
    with HubThread(tmp_path / "old") as old:
        old.join("ward")
        with pytest.raises(ConfigError, match=f"--federation {old.ledger.federation}"):
            RosterBook(old.ledger).adopt(heart.keys)
        assert "on first use" in RosterBook(old.ledger).facts([])["trust"]
        with pytest.raises(SpecError, match="nobody signs a roster for this hub"):
            RosterBook(old.ledger).put("roster", heart.roster(1).dump())
        RosterBook(old.ledger).adopt(replace(heart.keys, federation=old.ledger.federation))


def test_an_invitation_of_another_federation_is_refused(hub: HubThread, tmp_path: Path) -> None:
    path = tmp_path / "x.invitation"
    other = SignedFederation(federation="fed_" + "00" * 8)
    path.write_bytes(Invitation(hub.url, "x", "node", hub.parties.invite("x", "node"), other.keys).dump())
    with pytest.raises(NotPermitted, match="is the hub of"):
        enrol_home(tmp_path / "x", "x", "node", hub=None, invite=path)
    broken = json.loads(path.read_bytes())
    broken["federation"]["threshold"] = 7
    path.write_text(json.dumps(broken))
    with pytest.raises(SpecError, match="expected a threshold"):
        Invitation.load(path)
