"""Every notebook, run from its first cell to its last in a kernel of its own, in a folder that nothing else uses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import preloaded
from tests.processes import processes_of, wait_until

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT_S = 280
ANNOUNCED = {"07_statistics_and_regression": r"job_\w+: 1 of 2 nodes, .* left out: north \(min_rows: .*\)\n"}
"""What a notebook's text says that a job will report while it runs, as a regular expression."""

named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have notebooks make their folders here, and their nodes leave cores to the tests beside them."""
    monkeypatch.setenv("FEDJOB_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path / "default-home"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    return tmp_path


@pytest.fixture
def kernel(temporary: Path) -> str:
    """Return the name of a kernel that is forked, and so is what it starts, from a process that has imported torch."""
    words = [preloaded.server().python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = temporary / "share" / "kernels" / "forked" / "kernel.json"
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"argv": words, "display_name": "Python 3", "language": "python"}))
    return "forked"


@pytest.mark.slow
@pytest.mark.timeout(600)
@named
def test_a_notebook_runs_from_top_to_bottom_and_leaves_nothing(
    path: Path, temporary: Path, kernel: str
) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        startup_timeout=60,
        kernel_name=kernel,
        resources={"metadata": {"path": str(temporary)}},
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    errors = [output for output in outputs if output.output_type == "error"]
    assert errors == []
    reported = [
        output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"
    ]
    announced = ANNOUNCED.get(path.stem)
    assert len(reported) == int(announced is not None), reported
    assert announced is None or re.fullmatch(announced, reported[0]), reported
    wait_until(lambda: not processes_of(temporary), timeout_s=60, what="its processes to end")
    assert not list(temporary.glob("fedjob-*"))


@named
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    """Outputs would go stale, swell every diff, and name folders of whoever ran it last."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


def test_there_are_the_notebooks_that_the_papers_name() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_first_job",
        "02_resume_from_breakpoint",
        "03_from_fedbiomed",
        "04_remote_functions",
        "05_life_of_a_job",
        "06_algorithms",
        "07_statistics_and_regression",
        "08_continuous_inference",
        "09_privacy",
        "10_simulation",
    ]
