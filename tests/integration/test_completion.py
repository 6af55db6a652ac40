"""A shell completes what a node's home and a hub's home have, and the settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


LINES = (
    ("node", "grants", "approve"), ("node", "data", "show"), ("node", "logs"), ("node", "config", "set"),
    ("node", "budget", "set"), ("node", "state", "drop"), ("node", "model", "remove"), ("node", "start"), ("job", "show"),
    ("job", "submit"), ("hub", "party", "revoke"), ("federation", "sign"), ("federation", "roster"), ("verify",), (),
)  # fmt: skip

_PROBE = """
import json, sys, time
from click.shell_completion import ShellComplete
from fedjob.cli import cli
began = time.process_time()
complete = ShellComplete(cli, {}, "fedjob", "_FEDJOB_COMPLETE")
for words in json.loads(sys.argv[1]):
    for begin in ("", "--"):
        complete.get_completions(words, begin)
print(json.dumps([sorted(sys.modules), time.process_time() - began]))
"""


def test_a_tab_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    """All of the lines in one process: together they take no more than one Tab may."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(LINES)],
        env={**os.environ, "FEDJOB_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    modules, cpu_s = json.loads(done.stdout)
    slow = {
        "requests",
        "urllib3",
        "cattrs",
        "torch",
        "numpy",
        "pandas",
        "rich",
        "paho",
        "asyncio",
        "bandit",
        "validators",
    }
    assert slow & set(modules) == set()
    assert cpu_s < 1.0, "for thirty of them, on a busy machine"


def test_jobs_of_a_home_are_completed_with_their_names(tmp_path: Path) -> None:
    from fedjob.researcher.storage.index import open_index

    id_ = "job_0191f000-0000-7000-8000-000000000001"
    (tmp_path / "jobs" / id_).mkdir(parents=True)
    with open_index(tmp_path) as index:
        index.execute("INSERT INTO jobs (id, name, state) VALUES (?, 'heart', 'running')", (id_,))
    complete = ShellComplete(cli, {}, "fedjob", "_FEDJOB_COMPLETE")
    for command in ("show", "watch", "kill", "result"):
        (found,) = complete.get_completions(["job", command, "--home", str(tmp_path)], "0191")
        assert (found.value, found.help) == (id_, "heart running")
    assert completed("job", "show", "--home", str(tmp_path / "none")) == []


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_home_completes_nothing_and_says_nothing(content: bytes, tmp_path: Path) -> None:
    for name in ("node.sqlite", "hub.sqlite", "jobs.sqlite", "models.json"):
        (tmp_path / name).write_bytes(content)
    for line in LINES[:7]:
        if line[1] != "config":
            assert completed(*line, "--home", str(tmp_path)) == []
    assert completed("hub", "party", "revoke", "--home", str(tmp_path)) == []


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
