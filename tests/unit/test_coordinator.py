"""The keys of a federation and the signing of its roster, typed on a machine without a network."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedjob.common.errors import DecodeError, FedjobError, SpecError
from fedjob.coordinator.cli import federation as commands
from fedjob.coordinator.drafts import Candidate, Wishes, next_roster
from fedjob.coordinator.exchange import ToSign
from fedjob.coordinator.signing import propose, rotated
from fedjob.identity.keys import Identity
from fedjob.identity.statements.federation_keys import FederationKeys
from fedjob.identity.statements.key_file import FederationKey
from fedjob.identity.statements.pin import Pin, RosterRefused
from fedjob.identity.statements.request_proof import SCHEME, TOLERANCE_S, check_proof, make_proof
from fedjob.identity.statements.roster_statement import RosterStatement, changes
from fedjob.identity.statements.succession import Succession
from tests.federations import SignedFederation

HEART = SignedFederation("ann", "clinic", "ward")
NOW = time.time()


def row(identity: Identity, *, revoked: bool = False, role: str = "") -> dict[str, Any]:
    keys = identity.public_keys
    return {
        "party": identity.party,
        "role": role or ("researcher" if identity.party.startswith("ann") else "node"),
        "key": keys.signing,
        "sealing": keys.sealing,
        "binding": keys.binding,
        "revoked": revoked,
    }


def hub_file(path: Path, keys: FederationKeys, *identities: Identity, **more: Any) -> Path:
    plain = {
        "keys": keys.to_plain(),
        "roster": None,
        "draft": None,
        "parties": [row(each) for each in identities],
    }
    path.write_text(json.dumps({**plain, **more}))
    return path


def types(*words: object, input: str | None = None, expect: type[BaseException] | int = 0) -> str:
    done = CliRunner().invoke(commands, [str(word) for word in words], input=input)
    if isinstance(expect, int):
        assert done.exit_code == expect, (done.output, done.exception)
        return done.output
    assert isinstance(done.exception, expect), (done.output, done.exception)
    return str(done.exception)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("four words of a poem\n")
    return path


def test_two_of_three_sign_one_after_another_without_a_network(tmp_path: Path, passphrase: Path) -> None:
    made = ("--keys", "3", "--threshold", "2", "--folder", tmp_path, "--passphrase-file", passphrase)
    types("create", "heart", *made)
    keys = FederationKeys.load(tmp_path / "heart.federation")
    assert (len(keys.keys), keys.threshold) == (3, 2)
    found = hub_file(tmp_path / "found", keys, *HEART.identities.values())
    sign = ("--passphrase-file", passphrase, "--yes")
    first = types(
        *("sign", "--key", tmp_path / "heart-1.key", "--in", found, "--out", tmp_path / "one"), *sign
    )
    assert "new      node clinic, key " in first
    assert "1 signatures" in first
    assert "is signed by 1 of the federation's keys, it takes 2" in types(
        *("roster", "verify", "--federation", tmp_path / "heart.federation", "--in", tmp_path / "one"),
        expect=RosterRefused,
    )
    second = types(
        *("sign", "--key", tmp_path / "heart-3.key", "--in", tmp_path / "one", "--out", tmp_path / "two"),
        *sign,
    )
    assert "signed by 1 of the 2 keys that it takes" in second
    there = ("--federation", tmp_path / "heart.federation")
    assert "roster 1 of heart is signed as it should be" in types(
        "roster", "verify", *there, "--in", tmp_path / "two"
    )
    assert "roster 1 of" in types("roster", "show", *there)  # this signer keeps what it signed
    shown = json.loads(types("roster", "show", *there, "--json"))
    assert {party["party"] for party in shown["parties"]} == {"ann", "clinic", "ward"}
    again = types(*("sign", "--key", tmp_path / "heart-1.key", "--in", found, "--out", tmp_path / "x"), *sign)
    assert "ODD      the hub has no roster, roster 1 was signed" in again
    assert "roster 2 of heart" in again


def test_wrong_words_and_wrong_keys_are_named(tmp_path: Path, passphrase: Path) -> None:
    types("create", "heart", "--folder", tmp_path, "--passphrase-file", passphrase)
    types("create", "lung", "--folder", tmp_path / "lung", "--passphrase-file", passphrase)
    keys = FederationKeys.load(tmp_path / "heart.federation")
    found = hub_file(tmp_path / "found", keys, HEART.identities["clinic"])
    sign = ("sign", "--in", found, "--out", tmp_path / "out")
    (wrong := tmp_path / "wrong").write_text("another poem altogether\n")
    key = ("--key", tmp_path / "heart.key")
    assert "the passphrase does not open" in types(
        *sign, *key, "--passphrase-file", wrong, expect=FedjobError
    )
    right = ("--passphrase-file", passphrase)
    other = ("--key", tmp_path / "lung" / "lung.key", "--federation", tmp_path / "heart.federation")
    assert "none of those that sign for heart" in types(*sign, *other, *right, "--yes", expect=FedjobError)
    assert "expected one .federation file" in types(
        *sign, "--key", tmp_path / "x" / "y.key", *right, expect=FedjobError
    )
    assert "expected a federation's key" in types(
        *sign, "--key", tmp_path / "y.key", *right, expect=FedjobError
    )
    assert "nothing was signed" in types(*sign, *key, *right, input="n\n", expect=FedjobError)
    assert not (tmp_path / "out").exists()
    assert "there is no party 'nobody'" in types(
        *("revoke", "nobody", "--in", found, "--out", tmp_path / "out"),
        *key,
        *right,
        "--yes",
        expect=SpecError,
    )
    assert "is there already" in types("create", "heart", "--folder", tmp_path, *right, expect=FedjobError)
    (short := tmp_path / "short").write_text("short\n")
    assert "10 characters or more" in types(
        "create", "x", "--folder", tmp_path, "--passphrase-file", short, expect=SpecError
    )
    (tmp_path / "heart.key").chmod(0o644)
    assert "chmod 600" in types(*sign, *key, *right, expect=FedjobError)
    (tmp_path / "heart.key").chmod(0o600)
    lung = hub_file(tmp_path / "lung.found", FederationKeys.load(tmp_path / "lung" / "lung.federation"))
    assert "the hub is of federation" in types(
        *("sign", "--in", lung, "--out", tmp_path / "out"), *key, *right, "--yes", expect=RosterRefused
    )


def candidates(*identities: Identity, revoked: str = "") -> list[Candidate]:
    return [Candidate.of_plain(row(each, revoked=each.party == revoked)) for each in identities]


def test_the_changes_of_a_roster_are_shown_in_words() -> None:
    everybody = list(HEART.identities.values())
    pin = Pin(HEART.keys).with_roster(HEART.roster(1), NOW)
    new = Identity.generate("clinic")
    after = next_roster(pin, candidates(new, everybody[0], Identity.generate("lab")), Wishes(), NOW)
    lines = changes(pin.roster, after)
    assert [line.split(",")[0][:30] for line in lines] == [
        f"new key  node clinic: {new.public_key_hex[:4]} {new.public_key_hex[4:7]}",
        "new      node lab",
        "gone     node ward",
    ]
    assert "NOT signed with it, so ask its owner" in lines[0]
    assert (after.number, after.federation) == (2, HEART.keys.federation)
    assert changes(pin.roster, next_roster(pin, candidates(*everybody), Wishes(), NOW)) == []
    assert changes(pin.roster, next_roster(pin, candidates(*everybody, revoked="ward"), Wishes(), NOW)) == [
        f"revoked  node ward, key {_short(HEART.identities['ward'])}"
    ]


def _short(identity: Identity) -> str:
    return " ".join(identity.public_key_hex[at : at + 4] for at in range(0, 16, 4))


def test_who_was_revoked_comes_back_with_another_key_or_when_named() -> None:
    everybody = list(HEART.identities.values())
    gone = next_roster(
        Pin(HEART.keys).with_roster(HEART.roster(1), NOW),
        candidates(*everybody),
        Wishes(revoke=frozenset({"ward"})),
        NOW,
    )
    assert gone.by_name["ward"].revoked
    pin = Pin(HEART.keys).with_roster(HEART.roster(1), NOW).with_roster(HEART.sign(gone), NOW)
    assert next_roster(pin, candidates(*everybody), Wishes(), NOW).by_name["ward"].revoked
    assert (
        next_roster(pin, candidates(everybody[0]), Wishes(), NOW).by_name["ward"].revoked
    )  # though the hub forgot it
    named = next_roster(pin, candidates(*everybody), Wishes(readmit=frozenset({"ward"})), NOW)
    assert not named.by_name["ward"].revoked
    anew = next_roster(pin, candidates(Identity.generate("ward")), Wishes(), NOW)
    assert not anew.by_name["ward"].revoked


def test_a_hub_that_lists_a_key_that_its_party_did_not_sign_is_refused_by_the_signer() -> None:
    stolen = {**row(HEART.identities["ward"]), "sealing": Identity.generate("ward").sealing.public_key_hex}
    with pytest.raises(DecodeError, match="not as their homes made it"):
        Candidate.of_plain(stolen)
    with pytest.raises(DecodeError, match="not as their homes made it"):
        Candidate.of_plain({**row(HEART.identities["ward"]), "role": "coordinator"})


def test_a_hub_that_shows_the_signer_an_older_roster_is_found_out() -> None:
    pin = Pin(HEART.keys).with_roster(HEART.roster(5), NOW)
    found = ToSign(HEART.keys, HEART.roster(3), None, tuple(candidates(*HEART.identities.values())))
    proposal = propose(pin, found, Wishes(), NOW, anew=False)
    assert "the hub has roster 3 only, roster 5 was signed" in proposal.warning
    assert RosterStatement.of(proposal.signed).number == 6
    with pytest.raises(RosterRefused):
        propose(pin, replace(found, roster=SignedFederation("ann").roster(9)), Wishes(), NOW, anew=False)


def test_the_keys_of_a_federation_change_by_a_statement_of_those_before() -> None:
    lung = SignedFederation("ann", num_keys=3, threshold=2, federation="fed_" + "12" * 8)
    new = [FederationKey.generate(), FederationKey.generate()]
    pin = Pin(lung.keys).with_roster(lung.roster(4), NOW)
    after, signed = rotated(lung.keys, lung.keys_in_hand[:2], new, 1)
    moved = pin.with_keys([signed])
    assert (moved.keys, moved.number) == (after, 4)
    with pytest.raises(RosterRefused, match="other keys"):
        moved.with_roster(lung.roster(5), NOW)  # the keys before sign nothing any more
    by_new = lung.sign(lung.statement(5), new[:1])
    assert moved.with_roster(by_new, NOW).number == 5
    with pytest.raises(DecodeError, match="signed by 1 of the keys before, it takes 2"):
        rotated(lung.keys, lung.keys_in_hand[:1], new, 1)
    with pytest.raises(RosterRefused) as caught:
        moved.with_keys([signed])
    assert caught.value.cause == "key_changed"


def test_a_party_changes_its_own_key_by_a_statement_of_the_one_before() -> None:
    pin = Pin(HEART.keys).with_roster(HEART.roster(1), NOW)
    old, first, second = HEART.identities["ward"], Identity.generate("ward"), Identity.generate("ward")

    def change(before: Identity, after: Identity) -> Any:
        return Succession(HEART.keys.federation, "ward", before.public_key_hex, after.public_keys).statement(
            before, after
        )

    moved = pin.with_successions([change(old, first)])
    assert moved.parties["ward"].key_hex == first.public_key_hex
    assert moved.parties["ward"].sealing_hex == first.sealing.public_key_hex
    assert moved.with_successions([change(first, second)]).parties["ward"].key_hex == second.public_key_hex
    assert moved.with_successions([change(old, second)]) == moved  # whoever stole the old key comes too late
    assert pin.with_successions([change(first, second)]) == pin
    signed = HEART.roster(2, [replace(HEART.party("ward"), key_hex=second.public_key_hex)])
    assert (
        moved.with_roster(signed, NOW).parties["ward"].key_hex == second.public_key_hex
    )  # the federation decides
    revoked = pin.with_roster(HEART.roster(2, [replace(HEART.party("ward"), revoked=True)]), NOW)
    assert revoked.with_successions([change(old, first)]) == revoked


def test_a_signer_who_is_no_party_proves_that_a_key_is_theirs() -> None:
    key = HEART.keys_in_hand[0]
    proof = make_proof(key, HEART.keys.federation, "GET", "/v1/roster", NOW).removeprefix(f"{SCHEME} ")
    assert check_proof(proof, HEART.keys, "GET", "/v1/roster", NOW)
    assert not check_proof(proof, HEART.keys, "POST", "/v1/roster", NOW)
    assert not check_proof(proof, HEART.keys, "GET", "/v1/roster/candidates", NOW)
    assert not check_proof(proof, HEART.keys, "GET", "/v1/roster", NOW + TOLERANCE_S + 2)
    thief = make_proof(FederationKey.generate(), HEART.keys.federation, "GET", "/v1/roster", NOW)
    assert not check_proof(thief.removeprefix(f"{SCHEME} "), HEART.keys, "GET", "/v1/roster", NOW)
    for odd in (
        "",
        "a.b.c",
        f"{key.public_hex}.x.y",
        f"{key.public_hex}.{int(NOW)}.zz",
        proof[:-2],
        "." * 99,
    ):
        assert not check_proof(odd, HEART.keys, "GET", "/v1/roster", NOW)
