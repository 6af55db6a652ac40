from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hpke
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.errors import ConfigError, SpecError
from fedjob.identity.keys import Identity, verify
from fedjob.identity.seals.sealing_key import public_sealing_key

ALICE = Identity.generate("alice")


def test_a_key_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path / "keys", "hospital")
    again = Identity.load_or_create(tmp_path / "keys")
    assert (again.party, again.public_key_hex) == ("hospital", made.public_key_hex)
    assert stat.S_IMODE((tmp_path / "keys" / "ed25519").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_the_private_key_shows_nowhere(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path, "hospital")
    assert (tmp_path / "ed25519").read_text().strip() not in repr(made) + str(vars(made))


def test_a_home_without_an_identity_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedjob node init"):
        Identity.load_or_create(tmp_path)


def test_a_home_keeps_its_name(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "hospital")
    with pytest.raises(ConfigError, match="'hospital', not 'clinic'"):
        Identity.load_or_create(tmp_path, "clinic")


def test_a_lost_key_is_not_silently_replaced(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "hospital")
    (tmp_path / "ed25519").unlink()
    with pytest.raises(ConfigError, match="restore it from a backup"):
        Identity.load_or_create(tmp_path, "hospital")


@pytest.mark.feature("BF-45")
def test_a_key_of_ones_own_is_used_and_no_other_in_its_place(tmp_path: Path) -> None:
    mine = Identity.load_or_create(tmp_path / "mine", "hospital")
    file = tmp_path / "mine" / "ed25519"
    used = Identity.load_or_create(tmp_path / "keys", "clinic", key=file)
    assert used.public_key_hex == mine.public_key_hex
    assert stat.S_IMODE((tmp_path / "keys" / "ed25519").stat().st_mode) == 0o600
    assert Identity.load_or_create(tmp_path / "keys", key=file).party == "clinic"
    Identity.load_or_create(tmp_path / "other", "hospital")
    with pytest.raises(ConfigError, match="holds another key than"):
        Identity.load_or_create(tmp_path / "other", key=file)
    file.chmod(0o604)
    with pytest.raises(ConfigError, match=r"others may read .*chmod 600"):
        Identity.load_or_create(tmp_path / "third", "hospital", key=file)
    with pytest.raises(ConfigError, match="there is no key file"):
        Identity.load_or_create(tmp_path / "third", "hospital", key=tmp_path / "none")
    assert not (tmp_path / "third" / "ed25519").exists()


@pytest.mark.feature("BF-45")
def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "hospital")
    (tmp_path / "ed25519").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Identity.load_or_create(tmp_path)


def test_a_damaged_key_is_refused_by_name(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "hospital")
    (tmp_path / "ed25519").write_text("not hex")
    with pytest.raises(ConfigError, match="ed25519 should hold 64 hex digits"):
        Identity.load_or_create(tmp_path)


@pytest.mark.parametrize("name", ["", "Hospital", "a/b", "../x", "-x", "a" * 64, "a+b", "a#"])
def test_a_name_that_could_be_a_path_or_a_topic_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((SpecError, ConfigError)):
        Identity.load_or_create(tmp_path, name)


@given(st.binary(max_size=200), st.binary(min_size=64, max_size=64))
def test_only_the_owners_signature_of_these_bytes_verifies(data: bytes, noise: bytes) -> None:
    signature = ALICE.sign(data)
    assert verify(ALICE.public_key_hex, signature, data)
    assert not verify(ALICE.public_key_hex, signature, data + b"\0")
    assert not verify(ALICE.public_key_hex, noise, data)
    assert not verify(Identity.generate("bob").public_key_hex, signature, data)


@pytest.mark.parametrize("key", ["", "zz", "00" * 31, "00" * 33])
def test_a_key_that_is_none_verifies_nothing(key: str) -> None:
    assert not verify(key, bytes(64), b"")


def test_a_second_key_is_made_to_be_written_to_and_signed_with_the_first(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path, "hospital")
    path = tmp_path / "mlkem768-x25519"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in repr(made) + repr(made.sealing) + str(vars(made.sealing))
    keys = made.public_keys.check("hospital")
    assert Identity.load_or_create(tmp_path).public_keys == keys
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    sealed = suite.encrypt(b"for the hospital", public_sealing_key(keys.sealing), b"info")
    assert (
        suite.decrypt(sealed, Identity.load_or_create(tmp_path).sealing.private_key, b"info")
        == b"for the hospital"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"sealing": ALICE.public_keys.sealing},
        {"signing": ALICE.public_key_hex},
        {"binding": ALICE.public_keys.binding},
        {"binding": ""},
        {"binding": "no hex"},
        {"sealing": "ab" * 1215},
        {"sealing": "zz" * 1216},
        {"signing": "ab"},
    ],
)
def test_a_second_key_that_the_first_did_not_sign_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="expected"):
        replace(Identity.generate("hospital").public_keys, **wrong).check("hospital")


def test_a_second_key_is_bound_to_one_party() -> None:
    with pytest.raises(SpecError, match="sealing key of 'clinic'"):
        ALICE.public_keys.check("clinic")


@pytest.mark.parametrize(
    ("spoil", "said"), [("missing", "restore it"), ("open", "chmod 600"), ("cut", "192 hex digits")]
)
def test_a_second_key_that_can_not_be_used_is_refused_by_name(tmp_path: Path, spoil: str, said: str) -> None:
    Identity.load_or_create(tmp_path, "hospital")
    path = tmp_path / "mlkem768-x25519"
    if spoil == "missing":
        path.unlink()
    elif spoil == "open":
        path.chmod(0o640)
    else:
        path.write_text(path.read_text()[:-9])
    with pytest.raises(ConfigError, match=f"mlkem768-x25519.*{said}"):
        Identity.load_or_create(tmp_path)
