"""Jobs in a notebook: one output that is redrawn, kept in the saved notebook, and nothing on stderr."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from tests.parts import package

SETUP = """import pandas, fedjob
fedjob.Job  # the imports
frame = pandas.DataFrame({"age": [1.0, 2.0, 3.0] * 9})
for node in "ab":
    frame.to_csv(f"{node}.csv", index=False)

@fedjob.function
def share(dataset):
    return float(dataset.frame()["age"].mean())

def job(**changes):
    data = {node: {"path": f"{node}.csv", "reader": "csv"} for node in "ab"}
    return fedjob.Job(share, data=data, nodes="local", home="home", name="mean age", **changes)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:  # type: ignore[type-arg]
    """Return the outputs of each cell of a notebook, as they are saved."""
    nbformat, nbclient = package("nbformat"), package("nbclient")
    folder = tmp_path_factory.mktemp("notebook")
    codes = [
        SETUP,
        "result = job().run()",
        "submitted = job().submit()\nsubmitted.wait();",
        "submitted.display(verbose=True)",
        "quiet = job().run(progress=False)",
        "silent = job().submit()\nsilent.wait(silent=True);",
        "import matplotlib.pyplot\nquiet = job()\nquiet.run(progress=False)\nquiet.plot('participation')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=120, startup_timeout=120, resources=resources).execute()
    saved = folder / "saved.ipynb"
    nbformat.write(notebook, saved)
    return [list(cell.outputs) for cell in nbformat.read(Path(saved), as_version=4).cells]


@pytest.mark.slow
def test_a_run_is_one_output_that_shows_its_end(cells: list[list[dict]]) -> None:  # type: ignore[type-arg]
    (output,) = cells[1]
    assert output["output_type"] == "display_data"
    text = output["data"]["text/plain"]
    assert text.startswith("mean age (job_")
    assert "completed, 1 of 1 round, took " in text.splitlines()[0]
    assert "2 of 2 nodes, 54 of 54 rows" in text
    assert '<div class="fedjob">' in output["data"]["text/html"]


@pytest.mark.slow
def test_a_wait_is_one_output_too_and_nothing_on_stderr(cells: list[list[dict]]) -> None:  # type: ignore[type-arg]
    (output,) = cells[2]
    assert output["output_type"] == "display_data"
    assert "completed" in output["data"]["text/plain"]


@pytest.mark.slow
def test_the_events_are_shown_on_request(cells: list[list[dict]]) -> None:  # type: ignore[type-arg]
    (output,) = cells[3]
    assert " | " in output["data"]["text/plain"]
    assert '<pre class="fj-tail">' in output["data"]["text/html"]


@pytest.mark.slow
def test_who_wants_nothing_sees_nothing(cells: list[list[dict]]) -> None:  # type: ignore[type-arg]
    assert cells[4] == []
    assert cells[5] == []


@pytest.mark.slow
def test_a_picture_has_no_background_also_where_pyplot_draws_figures(cells: list[list[dict]]) -> None:  # type: ignore[type-arg]
    import matplotlib.pyplot as plt

    (output,) = [output for output in cells[6] if "image/png" in output.get("data", {})]
    assert output["data"]["text/plain"].startswith("Picture")
    pixels = plt.imread(io.BytesIO(base64.b64decode(output["data"]["image/png"])), format="png")
    assert (pixels[0, :, 3] == 0).all()
