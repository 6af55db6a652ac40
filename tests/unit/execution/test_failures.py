"""The answer of a node whose work failed: where its traceback begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjob.execution.failures import failed
from fedjob.execution.orders import WorkOrder
from fedjob.training_plans.source.compilation import compile_text

TEXT = """\
def outer(dataset):
    return inner(dataset)


def inner(dataset):
    try:
        return {}[dataset]
    except KeyError as error:
        raise ValueError("no such key") from error
"""


def raised(of: Any, argument: Any) -> Exception:
    try:
        of(argument)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def order(folder: Path) -> WorkOrder:
    return WorkOrder(
        key="k", job="j", step="train", protocol="fedavg", round=1, node="a", output_path=str(folder)
    )


def test_a_traceback_begins_with_the_plans_own_line_and_so_do_its_causes(tmp_path: Path) -> None:
    outer: Any = compile_text(TEXT, "outer")
    trace = failed(order(tmp_path), raised(outer, "x")).trace
    files = [line.split('"')[1] for line in trace.splitlines() if line.startswith("  File ")]
    assert len(files) == 3
    assert all(file.startswith("<plan ") for file in files)
    assert trace.count("Traceback (most recent call last)") == 2
    assert trace.rstrip().endswith("ValueError: no such key")


def test_the_whole_traceback_is_kept_of_an_error_outside_of_the_plan(tmp_path: Path) -> None:
    trace = failed(order(tmp_path), raised(int, "x")).trace
    assert __file__ in trace


def test_the_environment_asks_for_whole_tracebacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJOB_TRACEBACK", "full")
    outer: Any = compile_text(TEXT, "outer")
    assert __file__ in failed(order(tmp_path), raised(outer, "x")).trace
