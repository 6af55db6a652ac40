"""A shell completes what a node's home and a hub's home have, and the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from fedjob.cli import cli
from fedjob.identity.keys import Identity
from fedjob.node.config.home import NodeHome
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.storage.database import Database
from tests.hubs import HubThread


def completed(*words: str, begin: str = "") -> list[str]:
    complete = ShellComplete(cli, {}, "fedjob", "_FEDJOB_COMPLETE")
    return [item.value for item in complete.get_completions(list(words), begin)]


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "clinic")
    made.create()
    Identity.load_or_create(made.keys, "clinic")
    return made


def test_grants_and_settings_are_completed(home: NodeHome) -> None:
    database = Database(home.database)
    subject = GrantSubject(researcher="ann", key_hex="ab" * 32, plan="", entry="fedjob.mean", dataset="heart")
    grant = Grants(database).file(subject, b"", protocol="statistics")
    database.close()
    for command in ("approve", "reject", "revoke", "show"):
        assert completed("node", "grants", command, "--home", str(home.root), begin=grant.id[:2]) == [
            grant.id
        ]
    assert completed("node", "config", "set", begin="approv") == ["approval", "approvers"]
    assert completed("node", "kill", "--home", str(home.root)) == []
    assert completed("node", "data", "show", "--home", str(home.root / "none")) == []


def test_parties_are_completed(tmp_path: Path) -> None:
    with HubThread(tmp_path) as hub:
        hub.join("clinic")
        hub.join("alice", "researcher")
        assert completed("hub", "party", "revoke", "--home", str(tmp_path)) == ["alice", "clinic"]
        assert completed("hub", "invite", "--home", str(tmp_path), begin="cl") == ["clinic"]


def test_an_invitation_of_a_party_that_exists_says_that_it_takes_over(tmp_path: Path) -> None:
    from click.testing import CliRunner

    (tmp_path / "hub").mkdir()
    with HubThread(tmp_path / "hub") as hub:
        hub.join("clinic")
        out = str(tmp_path / "clinic.invitation")
        words = ["hub", "invite", "clinic", "--home", str(tmp_path / "hub"), "--out", out]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert "takes that place over" in done.output
        done = CliRunner().invoke(cli, [*words, "--url", "https://0.0.0.0:8844"])
        assert "give --url https://NAME:8844" in str(done.exception)
