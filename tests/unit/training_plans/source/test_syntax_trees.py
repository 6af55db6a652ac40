"""Trees of Python text, made in several threads at a time."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.errors import PlanError
from fedjob.node.grants.plan_review import differs_only_in_form, own_remarks
from fedjob.training_plans.source.packages import imported_packages
from fedjob.training_plans.source.plan_source import syntax_tree

TEXT = (Path(__file__).parents[2] / "test_house_layout.py").read_text(encoding="utf-8")


class Ring:
    """A reference to itself, whose end is code in the midst of whatever makes objects: there threads take turns."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(100):
            pass


@pytest.fixture
def short_turns() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("short_turns")
def test_threads_that_make_trees_at_a_time_all_have_theirs() -> None:
    expected = ast.dump(syntax_tree(TEXT))
    found: list[str] = []

    def make() -> None:
        for _ in range(10):
            _rings = [Ring() for _ in range(200)]
            try:
                found.append(ast.dump(syntax_tree(TEXT)))
            except SystemError as error:
                found.append(str(error))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected] * 80


@pytest.mark.parametrize("inside", ["-", ".b", "()"])
@pytest.mark.parametrize("depth", [1500, 8000])
def test_whatever_is_nested_deeply_has_its_packages_or_is_no_plan(inside: str, depth: int) -> None:
    rows = "\n".join([inside * 100] * (depth // 100))
    text = f"import numpy\nx = (\n{rows}1)\n" if inside == "-" else f"import numpy\nx = (a\n{rows})\n"
    try:
        found = " ".join(imported_packages(text))
    except PlanError as error:
        found = str(error)
    assert found in ("numpy", "the plan is not valid Python: it is nested too deeply")
    assert own_remarks(text) is not None
    assert not differs_only_in_form(text, text + "y = 1\n")
