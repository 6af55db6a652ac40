"""The file by which a hub on loopback knows its own user, and files that something else names instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedjob.common.errors import NotPermitted
from fedjob.identity.loopback import SECRET_NAME, make_secret, proof_of, read_secret


def test_a_secret_is_read_back_and_nobody_else_can(tmp_path: Path) -> None:
    secret, path = make_secret(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(str(path)) == secret
    assert make_secret(tmp_path)[0] != secret


def _other_name(folder: Path) -> Path:
    return make_secret(folder)[1].rename(folder / "ed25519")


def _open_to_others(folder: Path) -> Path:
    path = make_secret(folder)[1]
    path.chmod(0o640)
    return path


def _link(folder: Path) -> Path:
    (folder / "elsewhere").mkdir()
    (folder / SECRET_NAME).symlink_to(make_secret(folder / "elsewhere")[1])
    return folder / SECRET_NAME


def _more_than_a_secret(folder: Path) -> Path:
    path = make_secret(folder)[1]
    path.write_bytes(path.read_bytes() + b"x")
    return path


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / SECRET_NAME, 0o600)
    return folder / SECRET_NAME


def _not_there(folder: Path) -> Path:
    return folder / SECRET_NAME


def _not_absolute(folder: Path) -> Path:
    return Path(SECRET_NAME)


@pytest.mark.parametrize(
    "stage", [_other_name, _open_to_others, _link, _more_than_a_secret, _pipe, _not_there, _not_absolute]
)
def test_no_other_file_is_read_for_whoever_listens_on_the_port(
    stage: Callable[[Path], Path], tmp_path: Path
) -> None:
    with pytest.raises(NotPermitted, match="fedjob hub invite"):
        read_secret(str(stage(tmp_path)))


def test_a_proof_is_good_for_one_party_with_one_key_and_token() -> None:
    made = {
        proof_of("ab" * 32, *who)
        for who in (("a", "node", "k", "t"), ("b", "node", "k", "t"), ("a", "node", "k", "u"))
    }
    assert len(made) == 3
    assert proof_of("ab" * 32, "a", "node", "k", "t") in made
