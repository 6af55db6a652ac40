"""Backups of nodes and hubs: written while they are in use, restored into an empty folder, as they were."""

from __future__ import annotations

import gzip
import json
import sqlite3
import stat
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedjob.cli import cli
from fedjob.common.errors import ConfigError
from fedjob.identity.enrolment import enrol_home
from fedjob.identity.keys import Identity
from fedjob.identity.membership import load_membership
from fedjob.identity.seals.hpke import decrypt, encrypt_for
from fedjob.node.config.home import NodeHome
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.storage.database import Database
from fedjob.repository.job_secrets import FOLDER_NAME, JobSecrets
from tests.hubs import HubThread

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"


def types(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture
def node(tmp_path: Path) -> NodeHome:
    home = NodeHome(tmp_path / "clinic")
    (tmp_path / "hub").mkdir()
    with HubThread(tmp_path / "hub") as hub:
        home.create()
        enrol_home(home.root, "clinic", "node", hub=hub.url, invite=None)
    (home.root / "config.toml").write_text('approvers = 2\nplans = "fedjob.statistics"\n')
    home.releases.mkdir()
    home.releases_of("heart").write_bytes(b"the memory of min_rows")
    home.states_of("job_1").mkdir()
    home.state_of("job_1", "a").write_bytes(b"state")
    home.secrets.write_text("{}")
    home.secrets.chmod(0o600)
    home.object_of("ab").write_bytes(b"fetched")
    JobSecrets(home.keys / FOLDER_NAME).of(JOB)
    return home


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".sqlite" not in path.name
    }


def test_a_node_comes_back_from_its_backup_as_it_was(node: NodeHome, tmp_path: Path) -> None:
    database = Database(node.database)  # open, with a commit that is in the write-ahead log alone
    subject = GrantSubject(
        researcher="ann", key_hex="ab" * 32, plan="", entry="fedjob.statistics", dataset="heart"
    )
    grant = Grants(database).file(subject, b"", protocol="statistics")
    Grants(database).approve(grant.id, by="owner")
    file, home = tmp_path / "clinic.backup", tmp_path / "restored"
    done = types("node", "backup", file, "--home", node.root)
    assert done.exit_code == 0, done.output
    database.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = types("node", "restore", file, "--home", home)
    assert done.exit_code == 0, done.output
    before = contents(node.root)
    del before["spool/objects/ab"]
    del before[f"keys/{FOLDER_NAME}/{JOB}"]  # it is destroyed with its job, and a copy would not be
    before.pop("enrolment.json", None)
    assert contents(home) == before
    for name in ("membership.mpk", "keys/ed25519", "keys/mlkem768-x25519", "secrets.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert load_membership(home) == load_membership(node.root)
    own = Identity.load_or_create(node.keys).sealing.public_key_hex
    assert (
        decrypt(Identity.load_or_create(home / "keys").sealing, encrypt_for(own, b"for it", b""), b"")
        == b"for it"
    )
    restored = Database(NodeHome(home).database)
    assert Grants(restored).get(grant.id).status == "granted"
    restored.close()
    assert types("node", "config", "get", "approvers", "--home", home).output.strip() == "2"


def test_nothing_is_overwritten(node: NodeHome, tmp_path: Path) -> None:
    file = tmp_path / "clinic.backup"
    assert types("node", "backup", file, "--home", node.root).exit_code == 0
    before = file.read_bytes(), contents(node.root)
    assert "there already" in str(types("node", "backup", file, "--home", node.root).exception)
    assert "not empty" in str(types("node", "restore", file, "--home", node.root).exception)
    assert (file.read_bytes(), contents(node.root)) == before
    assert "of a node, not of a hub" in str(
        types("hub", "restore", file, "--home", tmp_path / "other").exception
    )
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def packed(path: Path, members: dict[str, bytes], *, kind: str = "fedjob backup 1") -> Path:
    with gzip.open(path, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as archive:
        about = json.dumps({"kind": kind, "role": "node", "party": "clinic", "created": 1.0}).encode()
        for name, content in {"fedjob-backup.json": about, **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file = path.with_suffix(".part")
            file.write_bytes(content)
            with file.open("rb") as opened:
                archive.addfile(info, opened)
    return path


def test_what_is_no_backup_is_refused_and_leaves_nothing(node: NodeHome, tmp_path: Path) -> None:
    file = tmp_path / "whole"
    assert types("node", "backup", file, "--home", node.root).exit_code == 0
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-400])
    text = tmp_path / "text"
    text.write_text("no archive")
    bad = [cut, text, tmp_path / "none", packed(tmp_path / "older", {}, kind="another program's")]
    bad += [
        packed(tmp_path / f"out{n}", {name: b"x"})
        for n, name in enumerate(("../out", "/tmp/out", "a/../../b"))
    ]
    for source in bad:
        done = types("node", "restore", source, "--home", tmp_path / "restored")
        assert isinstance(done.exception, ConfigError), (source, done.output, done.exception)
        assert not (tmp_path / "restored").exists()
    assert not (tmp_path / "out").exists()


def test_a_hub_comes_back_with_its_parties_and_objects(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    with HubThread(folder) as hub:
        member = hub.join("alice", "researcher")
        repository = hub.repository("alice")
        kept = repository.put(b"kept", job="job_1")
        lost = repository.put(b"lost", job="job_1")
        hub.store.path(lost.sha256).unlink()  # as if a job had ended while the files were copied
        done = types("hub", "backup", tmp_path / "hub.backup", "--home", folder)
        assert done.exit_code == 0, done.output
        federation = hub.ledger.federation
    restored = tmp_path / "restored"
    done = types("hub", "restore", tmp_path / "hub.backup", "--home", restored)
    assert done.exit_code == 0, done.output
    assert "1 objects" in done.output
    with HubThread(restored) as again:
        assert again.ledger.federation == federation
        assert again.parties.by_token(member.token) is not None
        assert again.store.path(kept.sha256).read_bytes() == b"kept"
        rows = sqlite3.connect(restored / "hub.sqlite").execute("SELECT sha256 FROM objects").fetchall()
    assert rows == [(kept.sha256,)]
