"""The command `fedjob job result`."""

from __future__ import annotations

from pathlib import Path

import click

from fedjob.common.console import json_option, print_json, show_rows, size
from fedjob.common.terminal.going_on import still_going_on
from fedjob.researcher.cli.home import HOME, folder_of, job_argument


@click.command()
@job_argument
@HOME
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write record, parameters, metrics, logs and outputs to this folder.",
)
@click.option("--force", is_flag=True, help="Replace the files of an earlier download in it; others stay.")
@json_option
def result(job_id: str, home: Path | None, output: Path | None, force: bool, as_json: bool) -> None:
    """Show a completed job's result; with -o, write record, parameters, metrics, logs and outputs.

    \b
    fedjob job result heart
    fedjob job result heart -o results/
    """
    from fedjob.researcher.runner.revival import look

    folder = folder_of(home, job_id)
    look(folder)
    if output is None:
        with still_going_on("reading the result"):
            from fedjob.researcher.results.result import JobResult

            found = JobResult.load(folder)
            shown = repr(found)
        if as_json:
            print_json({"id": folder.path.name, "kind": found.kind, "path": str(folder.result)})
        else:
            click.echo(f"{shown}\n{folder.result}")
        return
    with still_going_on(f"writing {output}"):
        from fedjob.researcher.results.download import download

        files = download(folder, output, force=force)
    if as_json:
        print_json({"path": str(output), "files": files})
        return
    show_rows([{"file": name, "size": size(num_bytes)} for name, num_bytes in files.items()], False)
