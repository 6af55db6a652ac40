"""Empty and doubtful ids that an owner types act on nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedjob.cli import cli
from fedjob.common.errors import FedjobError
from fedjob.identity.keys import Identity
from fedjob.node.config.home import NodeHome
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.storage.database import Database


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "hospital")
    made.create()
    Identity.load_or_create(made.keys, "hospital")
    return made


def add_request(home: NodeHome, researcher: str) -> str:
    database = Database(home.database)
    subject = GrantSubject(
        researcher=researcher, key_hex="ab" * 32, plan="", entry="fedjob.statistics", dataset="heart"
    )
    grant = Grants(database).file(subject, b"", protocol="statistics")
    database.close()
    return grant.id


def statuses(home: NodeHome) -> set[str]:
    database = Database(home.database)
    found = {grant.status for grant in Grants(database).all()}
    database.close()
    return found


def types(home: NodeHome, *words: str) -> Result:
    return CliRunner().invoke(cli, ["node", *words, "--home", str(home.root)])


@pytest.mark.parametrize("typed", ["", " ", "\n", "ab", None])
def test_an_empty_or_short_id_decides_on_no_request(home: NodeHome, typed: str | None) -> None:
    grant = add_request(home, "ann")
    typed = grant[:3] if typed is None else typed
    for words in (
        ("grants", "approve", typed),
        ("grants", "reject", typed, "--reason", "no"),
        ("grants", "revoke", typed),
        ("grants", "show", typed),
        ("kill", typed),
        ("logs", typed, "--release"),
        ("state", "drop", typed),
        ("data", "remove", typed),
        ("secrets", "remove", typed, typed),
    ):
        assert isinstance(types(home, *words).exception, FedjobError), words
    assert statuses(home) == {"pending"}
    assert types(home, "grants", "approve", grant[:4]).exit_code == 0
    assert statuses(home) == {"granted"}


def test_an_id_that_begins_several_requests_decides_on_none(home: NodeHome) -> None:
    database = Database(home.database)
    first, second = add_request(home, "ann"), add_request(home, "bob")
    database.execute("UPDATE grants SET id = ? WHERE id = ?", ("abcd00000001", first))
    database.execute("UPDATE grants SET id = ? WHERE id = ?", ("abcd00000002", second))
    database.close()
    assert "several" in str(types(home, "grants", "approve", "abcd").exception)
    assert statuses(home) == {"pending"}


@pytest.mark.parametrize("option", ["--who", "--plan", "--data", "--project", "--by"])
def test_an_empty_option_widens_no_standing_agreement(home: NodeHome, option: str) -> None:
    given = {"--who": "*", "--plan": "*", "--data": "*", option: ""}
    words = [word for pair in given.items() for word in pair]
    assert "variable" in str(types(home, "grants", "allow", *words).exception)
    assert statuses(home) == set()


def test_an_empty_home_is_not_the_current_folder(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.root)
    for words in (("node", "status"), ("hub", "status"), ("job", "list"), ("nodes",)):
        done = CliRunner().invoke(cli, [*words, "--home", ""])
        assert done.exit_code == 2
        assert "variable" in done.output


@pytest.mark.parametrize("head", ["zzz", "", " ", "AB" * 32])
def test_a_head_of_the_audit_chain_that_is_none_is_a_typing_error(home: NodeHome, head: str) -> None:
    Database(home.database).close()
    done = types(home, "audit", "verify", "--against", head)
    assert isinstance(done.exception, FedjobError)
    assert "written anew" not in str(done.exception)
