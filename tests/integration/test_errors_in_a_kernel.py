"""Errors of fedjob in a real kernel: the user's own line and the sentence, the traceback on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parts import package

DEADLINE_S = 120

Run = Callable[[str], list[str]]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return a function that runs a cell and returns the lines of its error."""
    package("ipykernel")
    jupyter_client = package("jupyter_client.manager")
    manager, client = jupyter_client.start_new_kernel(
        kernel_name="python3", startup_timeout=DEADLINE_S, cwd=str(tmp_path_factory.mktemp("notebook"))
    )

    def run_cell(code: str) -> list[str]:
        lines: list[str] = []

        def collect(message: dict) -> None:  # type: ignore[type-arg]
            if message["msg_type"] == "error":
                for part in message["content"]["traceback"]:
                    lines.extend(COLOURS.sub("", part).splitlines())

        client.execute_interactive(code, timeout=DEADLINE_S, output_hook=collect)
        return lines

    try:
        run_cell("import fedjob")
        yield run_cell
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_misspelt_argument_takes_four_lines(run: Run) -> None:
    place, line, sentence, hint = run("import os\njob = fedjob.Job('fedavg', trainning_plan=None)")
    assert re.fullmatch(r"Cell In\[\d+\], line 2", place)
    assert line == "----> job = fedjob.Job('fedavg', trainning_plan=None)"
    assert sentence == "WrongArguments: Job has no argument 'trainning_plan': did you mean 'training_plan'?"
    assert "%tb" in hint


def test_the_traceback_is_shown_on_request(run: Run) -> None:
    assert len(run("fedjob.Guard(max_nrom=1)")) == 4
    whole = run("%tb")
    assert any(line.startswith("Traceback") or "Traceback (most recent call last)" in line for line in whole)
    assert any("checks.py" in line for line in whole)
    assert len(run("fedjob.Guard(max_nrom=1)")) == 4
    assert len(run("import os; os.environ['FEDJOB_TRACEBACK'] = 'full'\nfedjob.Guard(max_nrom=1)")) > 10
    assert len(run("del os.environ['FEDJOB_TRACEBACK']\nfedjob.Guard(max_nrom=1)")) == 4


def test_errors_of_others_are_shown_as_ever(run: Run) -> None:
    assert any("Traceback (most recent call last)" in line for line in run("1 / 0"))
    lines = run(
        "try:\n    fedjob.Guard(x=1)\nexcept fedjob.SpecError as error:\n    raise KeyError('mine') from error"
    )
    assert any("Traceback (most recent call last)" in line for line in lines)
    assert lines[-1] == "KeyError: 'mine'"


def test_a_function_of_the_users_own_is_the_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own_helper.py").write_text(
        "import fedjob\n\ndef build():\n    return fedjob.Items(limt=3)\n"
    )
    place, line, *_ = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport own_helper\nown_helper.build()"
    )
    assert place.endswith("own_helper.py, line 4")
    assert line == "----> return fedjob.Items(limt=3)"


PLAN = """@fedjob.function
def share(dataset):
    frame = dataset.frame()
    return float(frame["sox"].mean())"""


def test_a_plan_that_fails_is_shown_with_the_cells_own_line_marked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sex,age\n1,2\n0,3\n")
    assert run(PLAN) == []
    lines = run(
        f"fedjob.Job(share, data={str(tmp_path / 'a.csv')!r}, nodes='local', home={str(tmp_path)!r})"
        ".run(progress=False)"
    )
    assert lines[2].startswith("JobFailed: ")
    assert re.match(r"KeyError in (a cell|cell \d+), line 4:", lines[3])
    marked = [line for line in lines[4:] if line.startswith("---->")]
    assert marked == ['----> 4     return float(frame["sox"].mean())']
    assert len(lines) <= 9
