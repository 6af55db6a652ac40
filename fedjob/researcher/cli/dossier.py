"""The commands `fedjob job dossier` and `fedjob dossier verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedjob.common.checks import printable
from fedjob.common.console import json_option, print_json
from fedjob.common.errors import DecodeError
from fedjob.common.terminal.going_on import still_going_on
from fedjob.researcher.cli.home import HOME, folder_of, job_argument


@click.command("dossier")
@job_argument
@HOME
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; default dossier_ID.html here.",
)
def write(job_id: str, home: Path | None, output: Path | None) -> None:
    """Write one signed file for a data protection officer or an ethics board.

    It says who asked what of whom and who allowed it, which data, which plan word for word, under which limits and
    protections, each round with hashes and participants, what left each node, what came out when every round was
    computed again, and what nobody has checked. It opens in any browser; `fedjob dossier verify` checks it.

    \b
    fedjob job dossier heart -o dossier.html
    """
    with still_going_on("aggregating every round again"):
        from fedjob.researcher.dossier.dossier import write_dossier

        path = write_dossier(folder_of(home, job_id), output)
    click.echo(f"{path}  (check it anywhere: fedjob dossier verify {path.name})")


@click.group()
def dossier() -> None:
    """Check the dossier of a job, offline and on any machine."""


@dossier.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--signer", help="The researcher's public key, or its beginning (16 digits or more), to compare."
)
@json_option
def verify(file: Path, signer: str | None, as_json: bool) -> None:
    """Check that a dossier is as it was signed, and that nothing in it contradicts itself.

    The exit code is 0 if every byte is as the researcher signed it, the plan and the chain of rounds have the hashes
    that are named, and every head of an audit log is signed by its node; 1 if not. Who signed it is the key that is
    printed: compare it with the researcher's (`fedjob nodes` and owners' requests show it), or give it as --signer.

    \b
    fedjob dossier verify dossier_job_0191.html
    """
    try:
        with still_going_on("checking the dossier"):
            from fedjob.researcher.dossier.signed_file import MAX_DOSSIER_BYTES, open_dossier

            with file.open("rb") as opened:
                data = opened.read(MAX_DOSSIER_BYTES + 1)
            if len(data) > MAX_DOSSIER_BYTES:
                raise click.ClickException(
                    f"{file} is larger than any dossier ({MAX_DOSSIER_BYTES >> 20} MiB)"
                )
            found = open_dossier(data)
    except DecodeError as error:
        _end(as_json, file, [str(error)])
        return
    job = found.content["job"]
    problems = list(found.problems)
    if signer is not None and not (len(signer) >= 16 and found.key.startswith(signer.lower())):
        problems.append(f"it is signed by {found.key}, not by {signer}")
    elif job["researcher_key"] and job["researcher_key"] != found.key:
        problems.append(
            f"it is signed by {found.key}, and names {job['researcher_key']} as the researcher's key"
        )
    _end(
        as_json,
        file,
        problems,
        key=found.key,
        notes=found.notes,
        job=str(job["id"]),
        who=str(job["researcher"]),
    )


def _end(
    as_json: bool,
    file: Path,
    problems: list[str],
    *,
    key: str = "",
    notes: tuple[str, ...] = (),
    job: str = "",
    who: str = "",
) -> None:
    if as_json:
        print_json(
            {"valid": not problems, "problems": problems, "key": key, "notes": list(notes), "job": job}
        )
    else:
        for problem in problems:
            click.echo(printable(f"{file.name}: {problem}"), err=True)
        for note in notes:
            click.echo(printable(note))
        if not problems:
            click.echo(
                printable(
                    f"{file.name}: as it was signed. Job {job} of {who or 'this machine'}, signed by {key}"
                )
            )
    if problems:
        sys.exit(1)
