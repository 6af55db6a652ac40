"""What the command line says of errors that are no error of fedjob: one line each, never a traceback."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedjob.cli import cli, main
from fedjob.common.console import explain
from fedjob.identity.private_home import close_home


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/srv/node"),
            ("/srv/node: Permission denied", "this user may not"),
        ),
        (FileNotFoundError(2, "No such file or directory", "/ca.pem"), ("/ca.pem", "look at the path")),
        (IsADirectoryError(21, "Is a directory", "/srv"), ("/srv", "a file was expected")),
        (OSError(28, "No space left on device", "/srv/x"), ("/srv/x", "free some space")),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), ("/a", "(to /b)")),
        (ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"), ("'uvicorn'", "pip install")),
        (ModuleNotFoundError("no", name="sklearn.datasets"), ("'sklearn'", "pip install 'fedjob[")),
        (ModuleNotFoundError("no", name="pandas.io"), ("'pandas'", "pip install")),
        (sqlite3.OperationalError("unable to open database file"), ("unable to open", "look at the disk")),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(error: Exception, words: tuple[str, ...]) -> None:
    text = explain(error)
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("embedded null byte"),
        UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
        RecursionError("too deep\nindeed"),
        MemoryError(),
        ModuleNotFoundError("No module named 'fedjob.x'", name="fedjob.x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_nobody_foresaw_is_one_line_too(error: Exception) -> None:
    text = explain(error)
    assert text
    assert "\n" not in text


ODD_WORDS = ["", "\0", "\udcff", "9" * 400, "a=b=c", "\u202e\x1b[31m", "[", "-1", "nan"]
GO_ON = {
    "demo",
    "hub start",
    "node start",
    "job watch",
    "login",
    "page",
    "node page",
    "doctor",
    "node doctor",
    "federation create",
}
"""Commands that run on, look for a network, or ask in a terminal."""


def leaves(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from leaves(inner, (*path, name))


def words_of(command: click.Command, odd: str) -> list[str]:
    words: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            words += [odd] * max(1, parameter.nargs)
        elif parameter.required:
            words += [parameter.opts[0], odd]
    return words


@pytest.mark.parametrize("odd", ODD_WORDS, ids=ascii)
def test_no_command_shows_a_traceback_for_odd_words(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    count = 0
    for path, command in leaves(cli):
        if " ".join(path) in GO_ON:
            continue
        count += 1
        with pytest.raises(SystemExit):
            main([*path, *words_of(command, odd)])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err + shown.out, path
        assert "fault of fedjob" not in shown.err, (path, shown.err)
    assert count > 60


@pytest.mark.parametrize("command", ["job list", "hub status", "node status", "nodes"])
def test_a_device_is_no_home_and_keeps_its_rights(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o666)
    with pytest.raises(SystemExit):
        main([*command.split(), "--home", str(path)])
    assert "expected a folder" in capsys.readouterr().err
    close_home(path)
    assert path.stat().st_mode & 0o777 == 0o666


def types(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedjob", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "HOME": "/"}
    )


@pytest.mark.parametrize(
    "words",
    [
        ("node", "init", "--home", "/proc/node", "--id", "ann", "--hub", "http://127.0.0.1:9"),
        ("init", "--home", "/proc/lab", "--id", "ann", "--hub", "http://127.0.0.1:9"),
        ("hub", "start", "--home", "/proc/hub"),
        ("hub", "status", "--home", "/proc/1"),
        ("job", "list", "--home", "/dev/null/x"),
    ],
)
def test_a_home_that_can_not_be_made_is_one_line(words: tuple[str, ...]) -> None:
    done = types(*words)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2)


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')\n"
    )
    command = [sys.executable, "-m", "fedjob", "hub", "start", "--home", str(tmp_path / "hub"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert "Traceback" not in done.stderr
    assert "the package 'uvicorn' is needed" in done.stderr
    assert done.returncode == 1
