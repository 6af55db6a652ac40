"""How tests are spread over workers: what shares a federation stays together, what shares nothing may go anywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.distribution import ALONE, LONGEST_FIRST, Distribution

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("part", [*ALONE, *LONGEST_FIRST])
def test_every_place_that_is_named_is_there(part: str) -> None:
    assert (TESTS / part).exists()


@pytest.mark.parametrize("part", ALONE)
def test_what_is_spread_test_by_test_shares_no_fixture_of_its_file(part: str) -> None:
    shared = [
        node.name
        for node in ast.parse((TESTS / part).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and any("fixture" in (text := ast.unparse(made)) and "scope=" in text for made in node.decorator_list)
    ]
    assert shared == []


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/e2e/test_deaths.py::test_a[x@y]@rough", "rough"),
        ("tests/e2e/test_commands.py::test_b@federation-amqtt", "federation-amqtt"),
        ("tests/e2e/test_notebooks.py::test_c[01]", "tests/e2e/test_notebooks.py::test_c[01]"),
        ("tests/unit/node/test_hours.py::TestD::test_e[f::g]", "tests/unit/node/test_hours.py"),
    ],
)
def test_a_test_goes_with_its_group_or_its_file_or_alone(nodeid: str, scope: str) -> None:
    assert Distribution.__new__(Distribution)._split_scope(nodeid) == scope
