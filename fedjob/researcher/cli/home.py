"""The options and arguments that the researcher's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fedjob.common.console import HomeFolder

if TYPE_CHECKING:
    from fedjob.researcher.storage.folder import JobFolder

    _Text = click.ParamType[str]
else:
    _Text = click.ParamType

HOME = click.option(
    "--home",
    type=HomeFolder(),
    help="The researcher's folder; default $FEDJOB_HOME, then ~/.fedjob/researcher.",
)


class JobId(_Text):
    """The beginning of a job's id, or its name; a shell completes it from the jobs of the home."""

    name = "id"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from fedjob.researcher.connection.home import home_path
        from fedjob.researcher.storage.index import list_entries

        entries = list_entries(home_path(ctx.params.get("home")))
        begins = (incomplete, f"job_{incomplete}")
        return [
            CompletionItem(entry.id, help=f"{entry.name or '-'} {entry.state}")
            for entry in reversed(entries)
            if entry.id.startswith(begins)
        ]


def job_argument(command: Any) -> Any:
    """Add the argument ID, which names a job, to a command."""
    return click.argument("job_id", metavar="ID", type=JobId())(command)


def folder_of(home: Path | None, job_id: str) -> JobFolder:
    """Return the folder of the one job whose id or name matches `job_id`."""
    from fedjob.researcher.connection.home import home_path
    from fedjob.researcher.storage.search import the_folder

    return the_folder(home_path(home), job_id)
