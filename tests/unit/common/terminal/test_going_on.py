"""What takes long shows that it goes on: redrawn in a terminal and gone afterwards, lines in a pipe, nothing if it is short."""

from __future__ import annotations

import io
import threading
from contextlib import redirect_stderr, suppress

import pytest

from fedjob.common.terminal.going_on import still_going_on

WITHIN_S = 20.0


class Errors(io.StringIO):
    """Standard error that notices the first sign."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal
        self.signed = threading.Event()

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        if " s" in text:
            self.signed.set()
        return written


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_short_shows_nothing(is_terminal: bool) -> None:
    with redirect_stderr(errors := Errors(is_terminal)), still_going_on("reading images/"):
        pass
    assert errors.getvalue() == ""


def test_in_a_terminal_the_line_is_redrawn_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    with (
        redirect_stderr(errors := Errors(True)),
        still_going_on("reading \x1b[2Jimages of a folder with a very long name/", after_s=0) as sign,
    ):
        assert errors.signed.wait(WITHIN_S)
        sign.say("warning: 3 files are empty")
    shown = errors.getvalue()
    assert "\r\x1b[Kreading  [2Jimages of" in shown
    assert "\n" not in shown.split("warning")[0]
    assert all(len(line) <= 29 for line in shown.split("warning")[0].split("\r\x1b[K"))
    assert "\r\x1b[Kwarning: 3 files are empty\n" in shown, "a line in between stands by itself"
    assert shown.split("empty\n")[1] in ("", "\r\x1b[K") or shown.endswith("\r\x1b[K")


def test_in_a_pipe_it_is_a_plain_line_now_and_then() -> None:
    with redirect_stderr(errors := Errors(False)), still_going_on("reading images/", after_s=0):
        assert errors.signed.wait(WITHIN_S)
    assert errors.getvalue() == "fedjob: reading images/: 0 s so far\n"


def test_an_error_takes_the_line_away_too() -> None:
    with redirect_stderr(errors := Errors(True)), suppress(ValueError), still_going_on("reading", after_s=0):
        assert errors.signed.wait(WITHIN_S)
        raise ValueError("broken")
    assert errors.getvalue().endswith("\r\x1b[K")
    assert not any(thread.name == "going on" for thread in threading.enumerate())
