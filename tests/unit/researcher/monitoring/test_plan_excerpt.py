"""The lines of a plan that an error shows, with the failing one marked."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import JobFailed
from fedjob.researcher.monitoring.plan_excerpt import excerpts_added, excerpts_of
from fedjob.training_plans.source.compilation import compile_text
from fedjob.training_plans.source.plan_source import PlanSource

TEXT = 'def count(dataset):\n    frame = dataset.frame()\n    return frame["sox"].sum()\n'
SOURCE = PlanSource(TEXT, "count", "")


def test_nodes_that_failed_at_one_line_share_an_excerpt() -> None:
    error = JobFailed(
        "round 1 can't go on (a.b: exception: KeyError at plan line 3; c: exception: KeyError at plan line 1, 3)"
    )
    assert excerpts_of(error, SOURCE) == [
        "KeyError at a.b, c in line 3 of the plan:\n"
        "      2     frame = dataset.frame()\n"
        '----> 3     return frame["sox"].sum()'
    ]


def test_nodes_that_share_a_reason_share_an_excerpt_whatever_their_number() -> None:
    error = JobFailed("(a, b-1, c, d, e and 95 more: exception: KeyError at plan line 3: 'sox'; f: late)")
    (excerpt,) = excerpts_of(error, SOURCE)
    assert excerpt.startswith("KeyError at a, b-1, c, d, e and 95 more in line 3 of the plan:")


def test_the_users_own_file_and_lines_are_named_where_they_are_known() -> None:
    origins = (("heart.py", 11), ("heart.py", 12), ("heart.py", 13))
    (excerpt,) = excerpts_of(
        JobFailed("a: exception: KeyError at plan line 2"), PlanSource(TEXT, "count", "", origins)
    )
    assert excerpt.splitlines()[0] == "KeyError at a in heart.py, line 12:"
    assert excerpt.splitlines()[2] == "----> 12     frame = dataset.frame()"


def test_a_plan_that_raised_in_this_process_is_shown_where_it_did() -> None:
    def failing() -> None:
        count: Any = compile_text(TEXT, "count")
        try:
            count(None)
        except AttributeError as error:
            raise JobFailed("the training plan raised it") from error

    with pytest.raises(JobFailed) as caught, excerpts_added(SOURCE):
        failing()
    (note,) = caught.value.__notes__
    assert note.startswith("AttributeError in line 2 of the plan:\n      1 def count(dataset):\n----> 2 ")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "a: no_reply",
        "KeyError at plan line 0",
        "KeyError at plan line 99999999999999999999999",
        "KeyError at plan line 4",
        "a: exception: KeyError at plan line ",
        "\x1b[2J at plan line x",
    ],
)
def test_words_that_name_no_line_of_the_plan_add_nothing(words: str) -> None:
    assert excerpts_of(JobFailed(words), SOURCE) == []


def test_many_nodes_and_places_stay_short() -> None:
    words = "; ".join(f"n{i}: exception: E{i % 7} at plan line {1 + i % 3}" for i in range(1000))
    found = excerpts_of(JobFailed(words), SOURCE)
    assert len(found) == 3
    assert all(len(excerpt) < 400 for excerpt in found)
