"""The pictures of the researcher's page: every number can be drawn, and no name becomes markup."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from fedjob.common.types import new_job_id
from fedjob.researcher.page.charts import (
    MAX_POINTS,
    Line,
    legend,
    line_chart,
    nice_ticks,
    part_grid,
    seconds_text,
    stage_bar,
)
from fedjob.researcher.page.comparison import differences, plan_changes, settings_of
from tests.owner_houses import TEXT
from tests.researcher_homes import spec_of

SERIES = {
    "one point": [(1.0, 0.5)],
    "all alike": [(1.0, 0.0), (2.0, 0.0)],
    "huge": [(1.0, 1e299), (2.0, -1e299)],
    "tiny": [(1.0, 1e-300), (2.0, 2e-300)],
    "no numbers between numbers": [(1.0, 0.1), (2.0, math.nan), (3.0, math.inf), (4.0, 0.4)],
    "far from zero": [(1.0, 1e9 + 1), (2.0, 1e9 + 2)],
    "long": [(float(at), math.sin(at)) for at in range(5000)],
}


@pytest.mark.parametrize("what", SERIES)
def test_every_line_is_drawn_within_its_picture(what: str) -> None:
    drawn = line_chart([Line(name=TEXT, points=tuple(SERIES[what]), colour=11)], title=TEXT)
    root = ElementTree.fromstring(str(drawn))
    assert {element.tag for element in root.iter()} <= {"svg", "title", "line", "text", "polyline", "circle"}
    for element in root.iter("polyline"):
        places = [tuple(map(float, place.split(","))) for place in element.attrib["points"].split()]
        assert 1 < len(places) <= MAX_POINTS + 1
        assert all(0 <= x <= 400 and 0 <= y <= 220 for x, y in places)
    assert len(list(root.iter("text"))) < 30


def test_nothing_to_draw_is_an_empty_text() -> None:
    assert line_chart([Line(name="a", points=((1.0, math.nan),))], title="x") == ""
    assert line_chart([], title="x") == ""


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.4, 0.83), (-3, 900), (5, 5), (0, 0), (1e-9, 2e-9), (0, 60)]
)
def test_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12


def test_names_in_bars_grids_and_legends_stay_texts() -> None:
    kinds = {(TEXT, 1): ("answered", TEXT)}
    for drawn in (
        part_grid([TEXT], [1, 2], kinds),
        legend({TEXT: 0}),
        stage_bar({"compute": 2.0, "wait": 0.0}, 2.0),
    ):
        root = ElementTree.fromstring(str(drawn))
        assert {element.tag for element in root.iter()} <= {
            "svg",
            "title",
            "line",
            "text",
            "rect",
            "ul",
            "li",
        }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.038, "38 ms"),
        (4.24, "4.2 s"),
        (200, "3 min 20 s"),
        (120, "2 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
    ],
)
def test_seconds_are_read_as_people_say_them(seconds: float, words: str) -> None:
    assert seconds_text(seconds) == words


def test_the_settings_that_differ_are_named_one_by_one() -> None:
    one = settings_of(spec_of(new_job_id(), training_args={"lr": 0.1, "epochs": 2}, note=""))
    other = settings_of(
        spec_of(new_job_id(), training_args={"lr": 0.01, "epochs": 2, "momentum": 0.9}, note="x" * 900)
    )
    found = dict(differences([one, other]))
    assert found["training_args.lr"] == ("0.1", "0.01")
    assert found["training_args.momentum"] == ("", "0.9")
    assert len(found["note"][1]) == 300
    assert found.keys() == {"training_args.lr", "training_args.momentum", "note"}, "the id differs always"


def test_the_texts_of_two_plans_are_compared_line_by_line() -> None:
    found = plan_changes("a = 1\nb = 2\n", "a = 1\nb = 3\n")
    assert ("removed", "-b = 2") in found
    assert ("added", "+b = 3") in found
    assert plan_changes("a\n", "a\n") == []
    assert len(plan_changes("", "x\n" * 5000)) == 401
