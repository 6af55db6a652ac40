"""The table of a job in a terminal fits every width, is drawn in its place, and is what the events say."""

from __future__ import annotations

import io
import re

import pytest

from fedjob.common.lifecycle import State
from fedjob.common.terminal.colours import BUSY, painted
from fedjob.common.terminal.redrawn import Redrawn
from fedjob.common.terminal.tables import width_of
from fedjob.researcher.monitoring.live import Live, NodeLive
from fedjob.researcher.monitoring.live_view import LiveView

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Screen(io.StringIO):
    """A terminal that is kept as its lines."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """Return what a person sees: the cursor goes up some lines, and clears from there."""
        shown: list[str] = []
        for part in re.split(r"(\x1b\[\d+F|\x1b\[\?25[lh]|\x1b\[J|\n)", self.getvalue()):
            if up := re.fullmatch(r"\x1b\[(\d+)F", part):
                del shown[len(shown) - int(up[1]) :]
            elif part and part != "\n" and not part.startswith(("\x1b[?", "\x1b[J")):
                shown.append(part)
        return shown


def view(**given: object) -> LiveView:
    live = Live(
        state=State.RUNNING,
        round=3,
        asked=("clinic-1", "clinic-2"),
        began=1.0,
        updated=31.0,
        since=(1.0, 0),
        nodes={
            "clinic-1": NodeLive(state="running", done=5, total=10),
            "clinic-2": NodeLive(state="completed"),
        },
        metrics={"clinic-1": {"loss": 0.25, "accuracy": 0.8125}},
    )
    fields = {
        "title": "heart (job_0191aaaa)",
        "nodes": ("clinic-1", "clinic-2"),
        "rounds": 9,
        "live": live,
        "now": 31.0,
    }
    return LiveView(**{**fields, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [24, 40, 79, 199])
def test_the_table_is_no_wider_than_the_terminal_and_has_all_in_it(width: int) -> None:
    lines = view(left_out={"clinic-3": "silent for the whole of this round, as in the one before"}).terminal(
        width, colours=True
    )
    assert max(width_of(_COLOUR.sub("", line)) for line in lines) <= width
    text = " ".join(_COLOUR.sub("", "\n".join(lines)).split())
    for words in (
        "running",
        "3 of 9 rounds",
        "left",
        "clinic-1",
        "clinic-2",
        "50 %",
        "0.25",
        "0.8125",
        "answered",
        "clinic-3",
    ):
        assert words in text


def test_colours_mean_states_and_are_left_out_where_they_are_not_wanted() -> None:
    assert painted("running", BUSY) in view().terminal(100, colours=True)[0]
    assert "\x1b" not in "".join(view().terminal(100, colours=False))


def test_names_and_reasons_of_others_steer_no_terminal() -> None:
    hostile = "a\x1b[2J\x07\nb"
    lines = view(title=hostile, left_out={"c": hostile}, remark=hostile, nodes=(hostile,)).terminal(
        80, colours=False
    )
    assert all(c.isprintable() for line in lines for c in line)


def test_each_drawing_takes_the_place_of_the_one_before() -> None:
    out = Screen()
    screen = Redrawn(out)
    for lines in (["a", "b", "c"], ["d"], ["e", "f"], ["e", "f"]):
        screen.draw(lines)
        assert out.lines == lines
    size = len(out.getvalue())
    screen.draw(["e", "f"])
    assert len(out.getvalue()) == size, "what is the same is not drawn again"
    screen.close()
    assert out.getvalue().endswith("\x1b[?25h"), "the cursor is there again"


def test_what_is_higher_than_the_terminal_is_cut_below_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "6")
    out = Screen()
    screen = Redrawn(out)
    assert screen.width == 39
    screen.draw([str(n) for n in range(20)])
    assert out.lines == ["0", "1", "2", "3", "... 16 more lines"]
