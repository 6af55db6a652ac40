"""Every error of a command line begins alike, names the nearest command, and an empty list says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.cli import cli
from fedjob.common.console import run_command_line
from fedjob.hub.storage.database import HubDatabase

WRONG = {
    ("job", "lits"): "there is no command 'lits': do you mean list?",
    ("nod",): "there is no command 'nod': do you mean node?",
    ("job", "qqqq"): "there is no command 'qqqq': there are submit, check,",
    ("hub", "qqqq"): "No such command 'qqqq'",
    ("hub", "party", "lst"): "No such command 'lst'",
    ("hub", "status"): "expected a hub's home in",
    ("hub", "start", "--tls-cert", "a.pem"): "expected --tls-cert and --tls-key together",
    ("node", "status"): "fedjob",
    ("node", "start", "--workers", "x"): "Invalid value for '--workers'",
    ("job", "show"): "Missing argument 'ID'",
    ("federation", "sign", "--days", "0"): "Invalid value for '--days'",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_every_error_begins_with_the_name_of_the_program(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as ended:
        run_command_line(cli, list(words), prog_name="fedjob")
    assert ended.value.code in (1, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fedjob: ")
    assert WRONG[words] in shown.err
    assert len(shown.err.splitlines()) <= 3


def test_an_empty_list_of_parties_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    HubDatabase(tmp_path / "hub.sqlite").close()
    with pytest.raises(SystemExit):
        run_command_line(cli, ["hub", "party", "list", "--home", str(tmp_path)])
    assert "fedjob hub invite PARTY" in capsys.readouterr().err
