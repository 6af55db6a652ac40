"""The settings in force: the whole file is checked, and while it can't be read the strictest hold."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fedjob.cli import cli
from fedjob.common.config import load_config, set_config
from fedjob.common.errors import ConfigError
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.daemon.settings import Settings
from tests.parts import package


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "hospital")
    made.create()
    Identity.load_or_create(made.keys, "hospital")
    return made


def write(home: NodeHome, text: str) -> None:
    (home.root / "config.toml").write_text(text, encoding="utf-8")


def types(home: NodeHome, *words: str) -> Result:
    return CliRunner().invoke(cli, ["node", "config", *words, "--home", str(home.root)])


def refused(home: NodeHome, *words: str) -> str:
    result = types(home, *words)
    assert isinstance(result.exception, ConfigError | click.ClickException | SystemExit), result.output
    return str(result.exception) + result.output


FAULTS = (
    'verifier = "oidc"',
    'verifier = "oidc"\nverifier_options = "isuer=https://id.example.org"',
    'verifier = "odic"',
    'hooks = "cvs"',
    'hook_options = "cvs.events=task.*"',
    'hook_options = "csv.evens=task.*"',
    'launcher = "docker"',
    "workers = -1",
    "approvers = 0",
    'hours = "always"',
    'memory = "much"',
    'pools = "gpu"',
    'smtp = "mail.example.org"',
    'notify_webhook = "example.org/hook"',
    'aproval = "on"',
    "this is no TOML",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_while_anything_cannot_be_read_nothing_runs_without_a_grant(home: NodeHome, fault: str) -> None:
    lax = 'plans = "*"\nbring = "on"\nlogs_private = "all"\nerrors = "full"\nown_of = "*"\n'
    write(home, f'approval = "off"\n{lax}{fault}\n')
    found = Settings(home)()
    assert found.faults
    assert found.config.approval == "on"
    assert (found.config.plans, found.config.own_of, found.config.ask_data) == ("", "", "*")
    assert (found.config.bring, found.config.logs_private, found.config.errors) == ("off", "none", "reason")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_line_refuses_what_the_daemon_could_not_use(home: NodeHome, fault: str) -> None:
    if " = " not in fault:
        return
    write(home, "threads = 2\n")
    words = [word.strip().strip('"') for line in fault.splitlines() for word in line.split(" = ")]
    refused(home, "set", *words)
    assert load_config(NodeConfig, home.root) == NodeConfig(threads=2)


def test_settings_that_are_wrong_keep_the_last_values_that_could_be_read(home: NodeHome) -> None:
    write(home, 'verifier = "nobody"\nworkers = 3\nhours = "Mon 09:00-17:00"\n')
    settings = Settings(home)
    assert not settings().faults
    write(home, 'verifier = "signatur"\nworkers = -3\nhours = "any"\napproval = "off"\n')
    found = settings()
    assert (found.config.verifier, found.config.workers, found.config.hours) == (
        "nobody",
        3,
        "Mon 09:00-17:00",
    )
    assert found.config.approval == "on"
    write(home, 'verifier = "signature"\napproval = "off"\n')
    assert settings().config == NodeConfig(approval="off")


def test_a_daemon_that_starts_with_settings_it_cannot_read_lends_nothing_unbounded(home: NodeHome) -> None:
    write(home, 'verifier = "oidc"\n')
    assert Settings(home)().config.verifier == "nobody"
    for bound in ('hours = "any"', 'launcher = "docker"', 'memory = "much"'):
        write(home, bound)
        assert Settings(home)().config.workers == 0


def test_a_file_that_may_not_be_read_gives_the_strictest_settings(home: NodeHome) -> None:
    (home.root / "config.toml").mkdir()
    found = Settings(home)()
    assert found.faults
    assert (found.config.approval, found.config.verifier, found.config.workers) == ("on", "nobody", 0)


def test_options_of_a_verifier_or_a_hook_may_be_set_before_it_is_chosen(home: NodeHome) -> None:
    package("jwt")
    for words in (
        ("verifier_options", "issuer=https://id.example.org/realms/research, client_id=fedjob"),
        ("verifier", "oidc"),
        ("hook_options", "csv.events=task.* batch.done, csv.file=batches.csv"),
        ("hooks", "csv"),
        ("approval", "on"),
    ):
        result = types(home, "set", *words)
        assert result.exit_code == 0, (result.output, result.exception)
    found = Settings(home)()
    assert not found.faults
    assert (found.config.verifier, found.config.hooks) == ("oidc", "csv")


def test_settings_that_belong_together_are_set_at_once_and_taken_back(home: NodeHome) -> None:
    package("jwt")
    options = "issuer=https://id.example.org, client_id=fedjob"
    assert "issuer=URL" in refused(home, "set", "verifier", "oidc")
    assert types(home, "set", "verifier", "oidc", "verifier_options", options).exit_code == 0
    assert "issuer=URL" in refused(home, "unset", "verifier_options")
    assert types(home, "unset", "verifier", "verifier_options").exit_code == 0
    assert load_config(NodeConfig, home.root) == NodeConfig()


def test_a_file_with_faults_is_mended_one_by_one_and_takes_nothing_else_meanwhile(home: NodeHome) -> None:
    write(home, 'hours = "any"\nmemory = "much"\naproval = "off"\n')
    assert "any" in refused(home, "set", "threads", "2")
    assert types(home, "set", "hours", "Mon 09:00-17:00").exit_code == 0
    assert types(home, "unset", "aproval").exit_code == 0
    assert types(home, "set", "memory", "2Gi").exit_code == 0
    assert not Settings(home)().faults


def test_a_notice_command_that_is_not_there_is_refused(home: NodeHome) -> None:
    assert "/no/such" in refused(home, "set", "notify_command", "/no/such --loud")
    assert 'found "sh \'a"' in refused(home, "set", "notify_command", "sh 'a")
    assert types(home, "set", "notify_command", "true").exit_code == 0


def test_a_setting_is_named_once_in_an_error(home: NodeHome) -> None:
    assert "approval: approval" not in refused(home, "set", "approval", "maybe")
    set_config(NodeConfig, home.root, "threads", "2")
    assert asdict(load_config(NodeConfig, home.root))["threads"] == 2
