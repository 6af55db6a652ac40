"""`fedjob` without arguments says what to do next, in every state that a home can be in, by commands that exist."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedjob.cli import cli
from fedjob.common.lifecycle import State
from fedjob.first_screen import FIRST_STEPS, HomeState, homes, state_of, steps_of
from fedjob.hub.storage.database import HubDatabase
from fedjob.identity.keys import Identity
from fedjob.node.config.home import NodeHome
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.storage.database import Database
from tests.unit.test_help_examples import understood

HERE = Path("/home")


def commands(home: HomeState) -> list[str]:
    return [command for _, command in steps_of(home) if command]


STATES = {
    "a researcher without a federation": (HomeState(role="researcher", path=HERE), "fedjob init --id NAME"),
    "a researcher without a job": (HomeState(role="researcher", path=HERE, party="ann"), "fedjob nodes"),
    "jobs that wait": (
        HomeState(
            role="researcher", path=HERE, party="ann", jobs={State.WAITING: ("a", "b"), State.RUNNING: ("c",)}
        ),
        "fedjob job why a",
    ),
    "a job that runs": (
        HomeState(role="researcher", path=HERE, party="ann", jobs={State.STARTING: ("it's",)}),
        "fedjob job watch 'it'\"'\"'s'",
    ),
    "a result": (
        HomeState(
            role="researcher", path=HERE, party="ann", jobs={State.COMPLETED: ("c",)}, last=("c", "completed")
        ),
        "fedjob job result c",
    ),
    "a failure": (
        HomeState(role="researcher", path=HERE, party="ann", jobs={State.LOST: ("c",)}, last=("c", "lost")),
        "fedjob job why c",
    ),
    "a node with requests": (
        HomeState(role="node", path=HERE, party="n", running=True, num_pending=2, num_datasets=1),
        "fedjob node grants list --pending",
    ),
    "a node without data": (
        HomeState(role="node", path=HERE, party="n", running=True),
        "fedjob node data add",
    ),
    "a node that stands": (HomeState(role="node", path=HERE, num_datasets=1), "fedjob node start --detach"),
    "a node that runs": (
        HomeState(role="node", path=HERE, running=True, num_datasets=1),
        "fedjob node status",
    ),
    "a hub that stands": (HomeState(role="hub", path=HERE), "fedjob hub start"),
    "a hub of nobody": (HomeState(role="hub", path=HERE, running=True), "fedjob hub status"),
}


@pytest.mark.parametrize("name", STATES)
def test_the_first_step_is_what_is_most_urgent_and_every_command_exists(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    home, first = STATES[name]
    assert commands(home)[0].startswith(first)
    for command in [*commands(home), *(command for _, command in FIRST_STEPS)]:
        for one in command.split(";"):
            understood(shlex.split(one)[1:])


def test_without_a_home_it_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FEDJOB_HOME", raising=False)
    done = CliRunner().invoke(cli, [])
    assert done.exit_code == 0
    for _, command in FIRST_STEPS:
        assert command in done.output
    assert list(tmp_path.iterdir()) == [], "looking makes no home"


def test_the_homes_of_a_user_are_found_and_read_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FEDJOB_HOME", raising=False)
    node = NodeHome(tmp_path / ".fedjob" / "node")
    node.create()
    Identity.load_or_create(node.keys, "clinic")
    database = Database(node.database)
    subject = GrantSubject(researcher="ann", key_hex="ab" * 32, plan="", entry="fedjob.mean", dataset="heart")
    Grants(database).file(subject, b"", protocol="statistics")
    database.close()
    hub = tmp_path / ".fedjob" / "hub"
    hub.mkdir()
    HubDatabase(hub / "hub.sqlite").close()
    (tmp_path / ".fedjob" / "researcher" / "jobs").mkdir(parents=True)
    assert [role for role, _ in homes()] == ["researcher", "node", "hub"]
    assert state_of("node", node.root) == HomeState(
        role="node", path=node.root, party="clinic", num_pending=1
    )
    shown = CliRunner().invoke(cli, []).output
    assert "node clinic, home" in shown
    assert "1 request waits for your decision" in shown
    assert "nobody has joined yet" in shown
    monkeypatch.setenv("FEDJOB_HOME", str(node.root))
    assert list(homes()) == [("node", node.root)], "the home that is named is the one"


@pytest.mark.parametrize("content", [b"", b"no database"])
def test_a_damaged_home_is_named_and_ends_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs.sqlite").write_bytes(content)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "party").write_bytes(b"\xff\x1b[31m")
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, [])
    assert done.exit_code == 0, done.exception
    assert "\x1b" not in done.output
    for name in ("node.sqlite", "hub.sqlite"):
        home = tmp_path / name.split(".")[0]
        home.mkdir()
        (home / name).write_bytes(content)
        monkeypatch.setenv("FEDJOB_HOME", str(home))
        assert CliRunner().invoke(cli, []).exit_code == 0
