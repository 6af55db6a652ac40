"""How tests are spread over workers: what shares a federation stays together, what shares nothing may go anywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.distribution import ALONE, LONGEST_FIRST, TOGETHER, scope_of

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("part", [*ALONE, *LONGEST_FIRST, *sum(TOGETHER.values(), ())])
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
        ("tests/e2e/test_deaths.py::test_a[x]", "rough"),
        ("tests/e2e/test_commands.py::test_b[a-mosquitto]", "federation"),
        ("tests/e2e/test_bad_input.py::TestB::test_b[amqtt]", "federation, amqtt"),
        ("tests/e2e/test_notebooks.py::test_c[01]", "tests/e2e/test_notebooks.py::test_c[01]"),
        ("tests/unit/node/config/test_hours.py::TestD::test_e[f::g]", "tests/unit/node/config/test_hours.py"),
    ],
)
def test_a_test_goes_with_its_group_or_its_file_or_alone(nodeid: str, scope: str) -> None:
    assert scope_of(nodeid) == scope


@pytest.mark.parametrize("fixture", TOGETHER)
def test_all_that_share_a_federation_are_named(fixture: str) -> None:
    using = []
    for path in TESTS.glob("e2e/test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        made = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        tests = [node for node in made if node.name.startswith("test_")]
        asked = {argument.arg for test in tests for argument in test.args.args}
        if fixture in asked and fixture not in {node.name for node in made}:
            using.append(path.relative_to(TESTS).as_posix())
    assert sorted(using) == sorted(TOGETHER[fixture])
