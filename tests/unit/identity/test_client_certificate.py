"""A party's certificate: asked for with two signatures, kept in the home, renewed in time."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedjob.common.errors import ConfigError, FedjobError, NotPermitted, SpecError
from fedjob.hub.config.authority import ClientAuthority
from fedjob.hub.storage.database import HubDatabase
from fedjob.identity.client_certificate import (
    certificate_of_home,
    describe,
    is_due,
    public_key_of_request,
    request_of,
    store,
)
from fedjob.identity.home_backup import back_up, restore
from fedjob.identity.keys import Identity
from fedjob.identity.request_signature import WINDOW_S, check_proof, prove

DAY_S = 86400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClientAuthority:
    return ClientAuthority.load_or_create(tmp_path_factory.mktemp("hub"), "fed_1")


@pytest.fixture
def ann() -> Identity:
    return Identity.generate("ann")


def issued(authority: ClientAuthority, home: Path, identity: Identity, valid_s: float = 30 * DAY_S) -> None:
    key = public_key_of_request(request_of(home, identity), identity.party, identity.public_key_hex)
    store(home, authority.issue(key, identity.party, "fed_1", valid_s))


def test_a_certificate_names_its_party_and_lies_beside_a_key_of_mode_600(
    authority: ClientAuthority, ann: Identity, tmp_path: Path
) -> None:
    issued(authority, tmp_path, ann)
    found = certificate_of_home(tmp_path).check()
    said = describe(found)
    assert said.names == {"ann"}
    assert said.is_for_clients
    for name in ("tls.key", "tls.pem"):
        assert (tmp_path / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert not [path for path in (tmp_path / "keys").iterdir() if path.suffix == ".tmp"]


def test_a_certificate_is_due_after_two_thirds_and_under_a_new_authority(
    authority: ClientAuthority, ann: Identity, tmp_path: Path
) -> None:
    found = certificate_of_home(tmp_path)
    assert is_due(found, authority.key_id), "there is none yet"
    issued(authority, tmp_path, ann)
    now = datetime.now(UTC)
    assert not is_due(found, authority.key_id, now)
    assert not is_due(found, authority.key_id, now + timedelta(days=19))
    assert is_due(found, authority.key_id, now + timedelta(days=21))
    assert is_due(found, authority.key_id, now + timedelta(days=400))
    assert is_due(found, "00" * 20, now)


def test_a_renewal_keeps_the_key(authority: ClientAuthority, ann: Identity, tmp_path: Path) -> None:
    issued(authority, tmp_path, ann)
    before = describe(certificate_of_home(tmp_path))
    issued(authority, tmp_path, ann)
    assert describe(certificate_of_home(tmp_path)).key_hash == before.key_hash


def test_a_certificate_of_another_key_is_not_stored(
    authority: ClientAuthority, ann: Identity, tmp_path: Path
) -> None:
    issued(authority, tmp_path, ann)
    kept = (tmp_path / "keys" / "tls.pem").read_bytes()
    other = authority.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), "ann", "fed_1", DAY_S)
    for pem in (other, "junk", ""):
        with pytest.raises(ConfigError):
            store(tmp_path, pem)
    assert (tmp_path / "keys" / "tls.pem").read_bytes() == kept


def requests(home: Path, ann: Identity) -> dict[str, Any]:
    """Return requests that no hub may fulfil for ann."""
    good, bob = request_of(home, ann), Identity.generate("bob")
    others = request_of(home / "other", ann)
    ed = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    wrong_kind = ed.sign(ed25519.Ed25519PrivateKey.generate(), None)
    large = ed.sign(ec.generate_private_key(ec.SECP521R1()), hashes.SHA256())
    pem = {
        name: each.public_bytes(serialization.Encoding.PEM).decode()
        for name, each in {"ed": wrong_kind, "large": large}.items()
    }
    return {
        "nothing": None,
        "a list": [],
        "no signature": {"csr": good["csr"]},
        "no request": {"csr_signature": good["csr_signature"]},
        "numbers": {"csr": 1, "csr_signature": 2},
        "junk": {"csr": "junk", "csr_signature": good["csr_signature"]},
        "a signature that is no hex": {**good, "csr_signature": "zz"},
        "of another key": {**good, "csr": others["csr"]},
        "signed by another party": request_of(home, bob) | {"csr": good["csr"]},
        "of another party": request_of(home, bob),
        "an Ed25519 key": {**good, "csr": pem["ed"]},
        "a key on P-521": {**good, "csr": pem["large"]},
        "too long": {**good, "csr": good["csr"] + "\n" * 10_000},
    }


def test_no_request_but_the_partys_own_is_fulfilled(ann: Identity, tmp_path: Path) -> None:
    for name, request in requests(tmp_path, ann).items():
        with pytest.raises((SpecError, NotPermitted)):
            pytest.fail(f"{name}: {public_key_of_request(request, 'ann', ann.public_key_hex)}")


@pytest.mark.parametrize("fault", ["open", "junk", "gone", "another"])
def test_a_hub_whose_authority_is_damaged_says_so(tmp_path: Path, fault: str) -> None:
    ClientAuthority.load_or_create(tmp_path, "fed_1")
    key = tmp_path / "client-authority" / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    if fault == "open":
        key.chmod(0o644)
    elif fault == "junk":
        key.write_bytes(b"junk")
    elif fault == "gone":
        key.unlink()
    else:
        ClientAuthority.load_or_create(tmp_path / "b", "fed_1")
        os.replace(tmp_path / "b" / "client-authority" / "key.pem", key)
    with pytest.raises(ConfigError, match=r"key\.pem"):
        ClientAuthority.load_or_create(tmp_path, "fed_1")


@pytest.mark.parametrize(
    ("method", "path", "federation", "late_s", "ok"),
    [
        ("GET", "/v1/parties", "fed_1", 0.0, True),
        ("GET", "/v1/parties?x=1", "fed_1", 0.0, True),
        ("GET", "/v1/parties", "fed_1", WINDOW_S - 2, True),
        ("GET", "/v1/parties", "fed_1", -WINDOW_S + 2, True),
        ("GET", "/v1/parties", "fed_1", WINDOW_S + 2, False),
        ("GET", "/v1/parties", "fed_1", -WINDOW_S - 2, False),
        ("PUT", "/v1/parties", "fed_1", 0.0, False),
        ("GET", "/v1/partie", "fed_1", 0.0, False),
        ("GET", "/v1/parties", "fed_2", 0.0, False),
    ],
)
def test_a_signature_is_of_one_request_for_a_few_minutes(
    ann: Identity, method: str, path: str, federation: str, late_s: float, ok: bool
) -> None:
    proof = prove(ann, "fed_1", "GET", "/v1/parties", clock=lambda: 1e9)
    try:
        check_proof(proof, ann.public_key_hex, federation, method, path, clock=lambda: 1e9 + late_s)
    except FedjobError:
        assert not ok
    else:
        assert ok
    with pytest.raises(NotPermitted):
        check_proof(proof, Identity.generate("bob").public_key_hex, "fed_1", "GET", "/v1/parties")


def test_a_backup_of_a_hub_carries_its_authority(ann: Identity, tmp_path: Path) -> None:
    HubDatabase(tmp_path / "hub" / "hub.sqlite").close()
    before = ClientAuthority.load_or_create(tmp_path / "hub", "fed_1")
    issued(before, tmp_path / "ann", ann)
    back_up(tmp_path / "hub", tmp_path / "hub.backup", role="hub")
    restore(tmp_path / "again", tmp_path / "hub.backup", role="hub")
    after = ClientAuthority.load_or_create(tmp_path / "again", "fed_1")
    assert after.key_id == before.key_id
    assert (tmp_path / "again" / "client-authority" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not is_due(certificate_of_home(tmp_path / "ann"), after.key_id)
