"""What the command line says of errors that are no error of fedjob: one line each, never a traceback."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fedjob.common.console import explain


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
