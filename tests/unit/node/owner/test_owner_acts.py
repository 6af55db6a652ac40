"""The acts of an owner, below commands and page: what each changes is in the audit log, under a name that can be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedjob.cli import cli
from fedjob.common.config import read_config
from fedjob.common.errors import ConfigError, SpecError
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.deciders import decider
from fedjob.node.owner.approvals import make_agreement
from fedjob.node.owner.departures import departures, totals_of
from fedjob.node.owner.settings import set_settings, settings_in_force, unset_settings
from fedjob.node.page.desk import check_writable, open_desk
from fedjob.node.page.setting_words import AT_TERMINAL, meanings, without_login
from fedjob.node.storage.audit import Audit
from tests.owner_houses import House, furnish


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def records(house: House, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (one.subject, json.loads(one.body)) for one in Audit(house.database).records() if one.kind == kind
    ]


def test_a_change_of_settings_is_recorded_with_who_made_it(house: House) -> None:
    set_settings(house.home, house.database, {"workers": "3", "hours": "Mon-Fri 20:00-06:00"}, by="Mira")
    unset_settings(house.home, house.database, ("workers",), by="Ben")
    assert records(house, "setting") == [
        ("workers", {"value": 3, "by": "Mira"}),
        ("hours", {"value": "Mon-Fri 20:00-06:00", "by": "Mira"}),
        ("workers", {"value": 1, "by": "Ben"}),
    ]
    assert read_config(house.home.root) == {"hours": "Mon-Fri 20:00-06:00"}
    assert settings_in_force(house.home).config.workers == 1


def test_what_is_refused_is_neither_written_nor_recorded(house: House) -> None:
    for texts in ({"workers": "-1"}, {"no_such": "1"}, {"workers": "2", "approval": "perhaps"}):
        with pytest.raises(ConfigError):
            set_settings(house.home, house.database, texts)
    assert records(house, "setting") == []
    assert read_config(house.home.root) == {}


def test_a_login_in_a_setting_is_not_recorded(house: House) -> None:
    set_settings(house.home, house.database, {"smtp": "smtps://mira:secret@mail.example:465"}, by="Mira")
    assert records(house, "setting") == [("smtp", {"value": "changed", "by": "Mira"})]
    assert (
        without_login("smtps://mira:secret@mail.example:465") == "smtps://(login not shown)@mail.example:465"
    )


@pytest.mark.parametrize("name", ["", "  ", "Mira\x1b[2J", "Mira\nby root", "\u202eariM"])
def test_nobody_decides_under_a_name_that_can_not_be_read(name: str) -> None:
    with pytest.raises(SpecError, match="--by"):
        decider(name)


def test_commands_record_what_they_order(house: House) -> None:
    ids = furnish(house)
    for words in (("kill", ids["running"]), ("logs", ids["failed"], "--release")):
        done = CliRunner().invoke(cli, ["node", *words, "--home", str(house.home.root)])
        assert done.exit_code == 0, done.output
    orders = [(subject, body["status"], bool(body["by"])) for subject, body in records(house, "order")]
    assert orders == [(ids["running"], "kill", True), (ids["failed"], "release", True)]


def test_an_agreement_of_the_page_names_no_file_of_this_machine(house: House, tmp_path: Path) -> None:
    plan = tmp_path / "plan.py"
    plan.write_text("class Net: ...\n")
    with pytest.raises(SpecError, match="files are the command's alone"):
        make_agreement(
            house.database, NodeConfig(), who="ann", plan=f"{plan}:Net", data="*", may_read_files=False
        )
    assert house.grants.all() == []


def test_departures_are_read_back_as_they_were_recorded(house: House) -> None:
    furnish(house)
    found = departures(house.database)
    assert [one.state for one in found] == ["failed", *["completed"] * 6]
    assert totals_of(found).num_numbers == 13
    assert totals_of(found).num_bytes == sum(one.num_bytes for one in found) > 5 * 48_216
    assert departures(house.database, since=found[0].at + 1) == []
    assert len(departures(house.database, limit=2)) == 2


def test_every_setting_has_words_and_those_of_the_terminal_are_settings() -> None:
    from dataclasses import fields

    names = {field.name for field in fields(NodeConfig)}
    assert set(meanings()) >= names
    assert all(len(words) > 10 for words in meanings().values())
    assert names >= AT_TERMINAL
    paths = {"notify_command", "launcher", "hooks", "verifier", "approval", "sandbox", "tls_key"}
    assert paths <= AT_TERMINAL, "what runs programs, reads files or takes a protection away"


def test_a_home_that_can_not_be_written_has_no_page(house: House) -> None:
    check_writable(house.home.root)
    with pytest.raises(ConfigError, match="records every decision in it: mount it for writing"):
        check_writable(Path("/proc"))  # where nobody writes a file, not even the system's administrator
    with pytest.raises(ConfigError, match="can't be written"):
        check_writable(house.home.root / "no" / "such")
    assert open_desk(house.home).home is house.home
    assert os.listdir(house.home.root)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--url", "https://a.example"), "add --password"),
        (("--url", "http://a.example", "--password"), "expected the address of a web server with TLS"),
        (("--port", "70000"), "70000"),
        (("--port", "1", "--new-password"), "expected a password of 12 characters or more"),
    ],
)
def test_the_command_refuses_what_it_can_not_serve(house: House, words: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(cli, ["node", "page", "--home", str(house.home.root), *words], input="short\n")
    assert done.exit_code != 0
    assert says in f"{done.output}{done.exception}"
    assert not house.home.page_password.exists()
