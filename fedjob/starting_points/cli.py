"""The command `fedjob new`: a commented script that trains as it is, written for a researcher to change."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from fedjob.common.errors import SpecError
from fedjob.common.files import by_users_umask

KINDS = {"torch": "torch_plan.py", "sklearn": "sklearn_plan.py", "function": "remote_function.py"}
"""Kind -> file beside this one."""

_IMPORTED = ("fedjob", "numpy", "pandas", "scipy", "sklearn", "torch")


@click.command()
@click.argument("path", metavar="FILE.py", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    default="torch",
    show_default=True,
    help="A training plan in PyTorch or scikit-learn, or a function.",
)
def new(path: Path, kind: str) -> None:
    """Write a commented script that runs as it is, to change step by step. No file is overwritten.

    \b
    fedjob new heart.py --kind sklearn
    fedjob job check heart.py
    python heart.py
    """
    write_starting_point(path, kind)
    name = shlex.quote(str(path))
    click.echo(f"{path} is written. Next:")
    for command, why in (
        (
            f"python {name}",
            f"{'runs' if kind == 'function' else 'trains'} it on made-up data in this process",
        ),
        (f"fedjob job check {name}", "says whether it would run at its nodes"),
        (f"fedjob job submit {name}", "starts it as a job that goes on without your terminal"),
    ):
        click.echo(f"  {command:<{20 + len(name)}}  {why}")
    click.echo("Then write your columns and data where the file says 1., 2. and 3.")


def write_starting_point(path: Path, kind: str) -> None:
    """Write the script of a kind to a new file.

    Raises:
        SpecError: the file is there already, or its name is not one of a module of one's own.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise SpecError(f"expected the name of a Python file such as heart.py, found {path.name!r}")
    if path.stem in sys.stdlib_module_names or path.stem in _IMPORTED:
        raise SpecError(f"{path.name} would hide the package {path.stem!r} from itself: give another name")
    if not path.parent.is_dir():
        raise SpecError(f"there is no folder {path.parent}: make it first")
    text = (Path(__file__).with_name(KINDS[kind])).read_bytes().replace(b"FILE.py", os.fsencode(path.name))
    with by_users_umask():
        try:
            with path.open("xb") as file:
                file.write(text)
        except FileExistsError:
            raise SpecError(f"{path} is there already, and stays as it is: give another name") from None
