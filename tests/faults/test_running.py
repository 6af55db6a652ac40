"""The run of scenarios, where a machine lacks a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.__main__ import run_setting
from tests.faults.federation import FederationBehindLines
from tests.faults.scenarios import Scenario, Setting
from tests.parts import forbidden

SCENARIOS = [Scenario(name=name, setting="squid") for name in ("one", "two")]


@contextmanager
def without_the_part(setting: Setting, folder: Path) -> Iterator[FederationBehindLines]:
    forbidden(f"{setting} in {folder.name[:7]}")
    yield  # type: ignore[misc]


def test_scenarios_whose_part_is_missing_are_skipped_and_counted_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_setting("squid", SCENARIOS, 1, without_the_part) == 0
    assert (
        capsys.readouterr().out
        == "-   squid: 2 scenarios skipped, the kernel allows no squid in faults- here\n"
    )
