"""The options and arguments that the researcher's commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedjob.common.console import HomeFolder
from fedjob.common.terminal.completion import CompletedText, rows_of

if TYPE_CHECKING:
    from fedjob.researcher.storage.folder import JobFolder

HOME = click.option(
    "--home",
    type=HomeFolder(),
    help="The researcher's folder; default $FEDJOB_HOME, then ~/.fedjob/researcher.",
)


def _jobs(given: object) -> Iterator[tuple[str, str]]:
    """Yield the ids of the jobs of a home, the newest first, each with its name and state."""
    home = Path(str(given or os.environ.get("FEDJOB_HOME") or "~/.fedjob/researcher")).expanduser()
    about = {id_: f"{name or '-'} {state}" for id_, name, state in rows_of(home / "jobs.sqlite", _INDEXED)}
    with suppress(OSError):  # the folders are what counts: the index is brought up to date by the next look
        for id_ in sorted((entry.name for entry in os.scandir(home / "jobs")), reverse=True):
            if id_.startswith("job_"):
                yield id_, about.get(id_, "-")


_INDEXED = "SELECT id, name, state FROM jobs ORDER BY id DESC"


def job_argument(command: Any) -> Any:
    """Add the argument ID, the beginning of a job's id or its name, to a command; a shell completes it."""
    return click.argument("job_id", metavar="ID", type=CompletedText(_jobs, before="job_"))(command)


def folder_of(home: Path | None, job_id: str) -> JobFolder:
    """Return the folder of the one job whose id or name matches `job_id`."""
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.storage.search import the_folder

    return the_folder(home_path(home), job_id)
