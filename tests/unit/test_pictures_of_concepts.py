"""The pictures of concepts are what the code says, and no step of its tables is missing in them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from docs import pictures
from fedjob.common.lifecycle import HISTORY, TABLE, State

DRAWN = {name: draw() for name, draw in pictures.PICTURES.items()}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_what_the_code_says(name: str) -> None:
    assert (pictures.DOCS / name).read_text(encoding="utf-8") == DRAWN[name], "make map draws it again"


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_shown_by_a_page_and_described_there(name: str) -> None:
    pages = [page.read_text(encoding="utf-8") for page in pictures.DOCS.glob("*.md")]
    assert any(re.search(rf"!\[[^\]]{{30,}}\]\({name}\)", page) for page in pages)


@pytest.mark.parametrize(
    ("name", "left_out"), [("job_life.svg", set()), ("task_life.svg", pictures.NOT_OF_TASKS)]
)
def test_a_life_has_every_step_of_the_table_and_no_other(name: str, left_out: set[State]) -> None:
    steps = {(here, there) for here in TABLE for there in TABLE[here] if not {here, there} & left_out}
    ends = {step for step in steps if step[1] in HISTORY}
    on_the_way = {step for step in steps if not set(step) & HISTORY}
    restarts = {step for step in steps if step[0] in HISTORY}
    assert restarts == {(end, State.WAITING) for end in HISTORY - left_out}
    root = ET.fromstring(DRAWN[name])
    tips = [tag for tag in root.iter() if "tip" in tag.get("class", "").split()]
    dots = [tag for tag in root.iter() if tag.tag.endswith("circle")]
    assert len(dots) == len(ends)
    assert len(tips) == len(on_the_way) + len(HISTORY - left_out) + 1  # one that is for all restarts
    words = {tag.text for tag in root.iter() if tag.tag.endswith("text")}
    assert {str(state) for state in set(State) - left_out} <= words


def test_the_masks_of_the_secure_sum_cancel() -> None:
    numbers = [
        int(n.replace(",", ""))
        for n in re.findall(r'class="ink mono b[^"]*">([\d,]+)<', DRAWN["secure_sum.svg"])
    ]
    *rows, total = numbers
    private, leaving = rows[::2], rows[1::2]
    assert private == list(pictures.PATIENTS.values())
    assert sum(leaving) % 2**32 == total == sum(private)
    assert not set(private) & set(leaving)
