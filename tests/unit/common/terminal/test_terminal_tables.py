"""Tables fit every width, lose nothing and align; colours say how a state is meant, and only in a terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State
from fedjob.common.terminal.colours import BAD, BUSY, GOOD, WAITING, colour_of, has_colours, rich_style
from fedjob.common.terminal.tables import table_lines, width_of, wrapped

JOBS = ("id", "name", "project", "protocol", "state", "reason", "submitted")
ROWS = [
    (
        f"job_01hkv3n2m8d9zq5c7y4t6w0r2e1f3g5h7j{end}",
        name,
        "-",
        "fedavg",
        "completed",
        "-",
        "2026-11-30 11:03 CET",
    )
    for end, name in (("9k", "heart disease of three hospitals"), ("xx", "-"))
]
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Screen(io.StringIO):
    """Text that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_in_a_pipe_a_row_is_one_aligned_line_with_everything_in_it() -> None:
    header, *lines = table_lines(JOBS, ROWS)
    assert len(lines) == 2
    assert [header.index(name) for name in ("name", "state")] == [42, 95]
    for line, row in zip(lines, ROWS, strict=True):
        assert re.split(r"  +", line) == list(row)
    assert "\t" not in header
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_table_is_never_wider_than_the_terminal(width: int) -> None:
    lines = table_lines(JOBS, ROWS, width=width, colours=True, ids=("id",))
    assert max(width_of(_COLOUR.sub("", line)) for line in lines) <= width
    text = re.sub(r"\s+", "", "".join(_COLOUR.sub("", line) for line in lines))
    for word in ("heart", "hospitals", "completed", "fedavg", "2026-11-30"):
        assert word in text, f"nothing is cut at {width}"


def test_columns_without_content_are_left_out_in_a_terminal_only() -> None:
    assert "reason" in table_lines(JOBS, ROWS)[0]
    assert "reason" not in table_lines(JOBS, ROWS, width=200)[0]


def test_ids_are_shortened_to_what_tells_them_apart_only_where_it_is_narrow() -> None:
    rows = [(f"{n}{'a' * 35}", "running") for n in range(3)]
    assert table_lines(("id", "state"), rows, width=80, ids=("id",))[1].startswith(rows[0][0])
    narrow = table_lines(("id", "state"), rows, width=24, ids=("id",))
    assert [line.split()[0] for line in narrow[1:]] == [f"{n}{'a' * 11}" for n in range(3)]


def test_where_words_would_be_broken_each_row_is_a_few_lines() -> None:
    lines = table_lines(("check", "found"), [("a", "b" * 70), ("c", "d")], width=60)
    assert lines[0] == "check  a"
    assert lines[1] == f"found  {'b' * 53}"
    assert lines[2] == f"       {'b' * 17}"
    assert lines[3:] == ["", "check  c", "found  d"]


def test_numbers_and_sizes_stand_to_the_right() -> None:
    lines = table_lines(("rows", "size"), [("5", "12 B"), ("1234", "1.5 MB")])
    assert lines == ["rows    size", "   5    12 B", "1234  1.5 MB"]


def test_wide_letters_and_escape_codes_keep_the_columns() -> None:
    lines = table_lines(("name", "state"), [("病院", "ok"), ("a\x1b[31m\x07", "ok"), ("e\u0301", "ok")])
    assert all(
        width_of(line[: line.index("ok")]) == width_of(lines[1][: lines[1].index("ok")]) for line in lines[1:]
    )
    assert "\x1b" not in "".join(lines)


def test_an_address_is_wrapped_behind_its_scheme_and_a_path_between_folders() -> None:
    assert wrapped("https://hub.example.org/a", 24) == ["https://hub.example.org/", "a"]
    assert wrapped("/data/heart/cleveland.csv", 14) == ["/data/heart/", "cleveland.csv"]


@given(st.text(max_size=80), st.integers(2, 30))
def test_whatever_is_wrapped_fits_and_keeps_its_letters(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(width_of(line.rstrip()) <= width for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)


def test_every_state_has_the_colour_of_what_it_means() -> None:
    for state in State:
        colour = colour_of("state", state)
        expected = (
            GOOD
            if state is State.COMPLETED
            else BUSY
            if state in ACTIVE
            else WAITING
            if state in PENDING
            else BAD
        )
        if state in (State.DRAFT, State.CANCELLED):  # neither is good or bad
            assert colour == ""
        elif state in HISTORY | ACTIVE | PENDING:
            assert colour == expected, state
    assert colour_of("status", "pending") == WAITING
    assert colour_of("name", "failed") == "", "only what is a state has a colour"


BACKGROUNDS = ("ffffff", "fdf6e3", "fafafa", "000000", "0c0c0c", "1e1e1e", "002b36", "282c34", "300a24")
"""Of xterm, Solarized, One, VS Code, Windows Terminal and Ubuntu, light and dark."""


def brightness(red: float, green: float, blue: float) -> float:
    """Return the relative luminance of WCAG 2.1."""
    parts = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in (red, green, blue)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", [GOOD, BUSY, WAITING, BAD])
def test_every_colour_can_be_read_on_light_and_on_dark_backgrounds(colour: str, background: str) -> None:
    kind, _, number = colour.rpartition(";")
    assert kind == "38;5", "one of the 256, of which 16 to 231 are the same everywhere"
    levels = (0, 95, 135, 175, 215, 255)
    red, rest = divmod(int(number) - 16, 36)
    own = brightness(*(levels[n] / 255 for n in (red, *divmod(rest, 6))))
    behind = brightness(*(int(background[n : n + 2], 16) / 255 for n in (0, 2, 4)))
    assert (max(own, behind) + 0.05) / (min(own, behind) + 0.05) >= 3, "WCAG's least contrast of large text"
    assert rich_style(colour) == f"color({number})"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert has_colours(Screen())
    assert not has_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(Screen())
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours(Screen())
