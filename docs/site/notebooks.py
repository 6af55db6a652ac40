"""Notebooks as pages of the site, with the outputs and pictures of a run.

The notebooks of the checkout hold no outputs, which would go stale. `run_all` executes each in a kernel of its own
and keeps the outcome in `build/notebooks`, under the hash of the notebook and of the package: it is executed again
when either has changed. A page is made of the newest run that there is, and says so if it is of other code.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from docs.site.links import ROOT

NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "build" / "notebooks"
CELL_TIMEOUT_S = 600
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def all_notebooks() -> list[Path]:
    """Return the notebooks of the checkout, in their order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def fingerprint(notebook: Path) -> str:
    """Return the hash of a notebook and of the package that it uses."""
    made = hashlib.sha256(notebook.read_bytes())
    for path in sorted((ROOT / "fedjob").rglob("*.py")):
        made.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return made.hexdigest()[:16]


def kept_run(notebook: Path, runs: Path = RUNS) -> Path | None:
    """Return the newest executed copy of a notebook; None if it was never executed here."""
    found = sorted(runs.glob(f"{notebook.stem}.*.ipynb"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def run_all(paths: Iterable[Path] | None = None, runs: Path = RUNS, workers: int = 2) -> None:
    """Execute every notebook that has no run of its present text and code.

    Args:
        paths: of notebooks; None for all of the checkout.
        runs: folder that keeps the executed copies.
        workers: so many notebooks run at once.

    Raises:
        ExceptionGroup: of the errors of the cells that failed; their notebooks keep no run.
    """
    outcomes = {path: runs / f"{path.stem}.{fingerprint(path)}.ipynb" for path in paths or all_notebooks()}
    due = [path for path, outcome in outcomes.items() if not outcome.exists()]
    asyncio.run(_execute_all(due, outcomes, workers))


async def _execute_all(due: list[Path], outcomes: dict[Path, Path], workers: int) -> None:
    at_once = asyncio.Semaphore(workers)

    async def execute(path: Path) -> None:
        async with at_once:
            print(f"running {path.name} ...", flush=True)
            await _execute(path, outcomes[path])

    async with asyncio.TaskGroup() as group:
        for path in due:
            group.create_task(execute(path))


async def _execute(path: Path, outcome: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        environment = {"TMPDIR": folder, "FEDJOB_HOME": f"{folder}/home", "FEDJOB_THREADS": "1"}
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            startup_timeout=120,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        await client.async_execute(env={**os.environ, **environment})
        # The outputs are anybody's: they name neither this checkout nor a folder that is gone.
        text = nbformat.writes(notebook).replace(folder, "/tmp").replace(str(ROOT), "fedjob")
    outcome.parent.mkdir(parents=True, exist_ok=True)
    unfinished = outcome.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    for old in outcome.parent.glob(f"{path.stem}.*.ipynb"):
        old.unlink()
    unfinished.replace(outcome)


@dataclass(frozen=True, slots=True)
class NotebookPage:
    """A notebook as Markdown.

    Args:
        text: of the page; each output that is HTML stands in it as a mark, since Markdown would change it.
        outputs: mark -> HTML.
        pictures: name -> bytes.
    """

    text: str
    outputs: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)


def page_of(notebook: Path, runs: Path = RUNS) -> NotebookPage:
    """Return the page of a notebook, with the outputs of the newest run that there is of its present text."""
    run = kept_run(notebook, runs)
    read = nbformat.read(run or notebook, as_version=4)
    if run is not None and not _same_text(read, notebook):
        run, read = None, nbformat.read(notebook, as_version=4)
    page = NotebookPage("")
    parts = [
        part for number, cell in enumerate(read.cells) for part in _cell(cell, number, notebook.stem, page)
    ]
    note = f"*This page is the notebook `notebooks/{notebook.name}`"
    note += " with the outputs of a run of it.*" if run else ", without outputs: `make docs` runs it.*"
    head, *rest = parts
    title, _, below = head.partition("\n")
    return NotebookPage("\n\n".join([title, note, below, *rest]), page.outputs, page.pictures)


def _same_text(run: Any, notebook: Path) -> bool:
    own = nbformat.read(notebook, as_version=4)
    return [cell.source for cell in own.cells] == [cell.source for cell in run.cells]


def _cell(cell: Any, number: int, stem: str, page: NotebookPage) -> Iterator[str]:
    if cell.cell_type != "code":
        yield cell.source
        return
    language = "bash" if cell.source.startswith("!") else "python"
    yield f"````{language}\n{cell.source}\n````"
    shown = [
        piece
        for i, output in enumerate(cell.outputs)
        if (piece := _output(output, f"{stem}-{number}-{i}", page))
    ]
    if shown:
        mark = f"output-{number}"
        page.outputs[mark] = f'<div class="notebook-output">{"".join(shown)}</div>'
        yield f'<div id="{mark}"></div>'


def _output(output: Any, name: str, page: NotebookPage) -> str:
    """Return an output as HTML; its picture is kept beside the page."""
    if output.output_type == "stream":
        return _plain(output.text)
    data = output.get("data", {})
    for kind, ending in (("image/png", "png"), ("image/svg+xml", "svg")):
        if kind in data:
            content = base64.b64decode(data[kind]) if ending == "png" else data[kind].encode()
            page.pictures[f"{name}.{ending}"] = content
            about = html.escape(data.get("text/plain", "a plot").splitlines()[0])
            return f'<img src="{name}.{ending}" alt="{about}">'
    if "text/html" in data:
        return str(data["text/html"])
    return _plain(data.get("text/plain", ""))


def _plain(text: str) -> str:
    """Return what a terminal would show at the end: without colours, and the last state of a line drawn anew."""
    lines = [line.rsplit("\r", 1)[-1] for line in TERMINAL.sub("", text).replace("\r\n", "\n").split("\n")]
    shown = "\n".join(lines).strip("\n")
    return f"<pre>{html.escape(shown)}</pre>" if shown.strip() else ""
