"""A part that the machine lacks skips a test at home and fails it in CI."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped

from tests.parts import SHARED_DATA, forbidden, has_program, in_ci, missing, package, program, shared_data

LACKING = {
    "the program no-such-program": lambda: program("no-such-program"),
    "the Python package no_such_package": lambda: package("no_such_package.module"),
    "../shared/data/no-such-folder": lambda: shared_data("no-such-folder"),
    "a right": lambda: missing("a right"),
}
each = pytest.mark.parametrize(("part", "need"), LACKING.items(), ids=list(LACKING))


@each
def test_in_ci_a_test_fails_for_want_of_a_part(
    part: str, need: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Failed) as caught:
        need()
    assert str(caught.value) == f"{part} is missing, and CI must have it"


@each
def test_elsewhere_a_test_is_skipped_for_want_of_a_part(
    part: str, need: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped) as caught:
        need()
    assert str(caught.value) == f"{part} is missing"


def test_what_the_kernel_forbids_is_skipped_in_ci_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Skipped) as caught:
        forbidden("Landlock")
    assert str(caught.value) == "the kernel allows no Landlock here"


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("1", True), ("", False), ("false", False), ("0", False)]
)
def test_the_environment_says_whether_this_is_ci(
    value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", value)
    assert in_ci() is expected


def test_a_part_that_is_there_is_returned() -> None:
    assert program("sh").endswith("/sh")
    assert has_program("sh")
    assert not has_program("no-such-program")
    assert package("json.decoder") is sys.modules["json.decoder"]
    assert SHARED_DATA.parts[-2:] == ("shared", "data")


def test_a_package_that_is_there_but_broken_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_inner_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_inner_module"):
        package("broken_package")
