"""The output of every command line: tables, sizes, times; and groups that import a command when it is used."""

from __future__ import annotations

import atexit
import errno
import gc
import json
import os
import re
import shutil
import sqlite3
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from fedjob.common.checks import printable
from fedjob.common.errors import BrokerUnreachable, FedjobError, NotPermitted, RepositoryUnreachable
from fedjob.common.files import private_process
from fedjob.common.notebooks.short_traceback import VARIABLE, wants_whole
from fedjob.common.terminal.colours import colour_of, has_colours, painted
from fedjob.common.terminal.tables import table_lines, width_of, wrapped


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is run.

    Args:
        commands: name -> (module, attribute, one line about it).
    """

    def __init__(self, *args: Any, commands_of: Mapping[str, tuple[str, str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_of = commands_of

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._commands_of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._commands_of:
            return None
        module, attribute, _ = self._commands_of[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=about)
            for name, (_, _, about) in self._commands_of.items()
            if name.startswith(incomplete)
        ]
        return [
            *found,
            *click.Command.shell_complete(self, ctx, incomplete),
        ]  # a group's own imports them all

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._commands_of and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self._commands_of, n=1)
            there = f"do you mean {near[0]}?" if near else f"there are {', '.join(self._commands_of)}"
            ctx.fail(f"there is no command {args[0][:40]!r}: {there}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in self._commands_of.items()])


class HomeFolder(click.Path):
    """The folder that `--home` names; an empty one, as an empty variable of a shell gives it, is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("expected a folder, found an empty text: is a variable of the shell empty?", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.exists() and not path.is_dir():  # click itself lets devices and sockets pass
            self.fail(f"expected a folder, found {printable(str(path))}, which is none", param, ctx)
        return path


def run_command_line(
    command: click.Command, args: list[str] | None = None, *, prog_name: str | None = None
) -> None:
    """Run a command line; an error is one line, never a traceback, unless `FEDJOB_TRACEBACK=full` asks for it."""
    atexit.register(gc.freeze)  # what imports have made goes with the process: for torch that saves a second
    try:
        with private_process():
            code = command.main(args, prog_name=prog_name, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        _refuse(error)
    except click.Abort:
        click.echo("fedjob: interrupted", err=True)
        sys.exit(1)
    except Exception as error:  # whatever it is: a command line shows no traceback
        if wants_whole():
            raise
        click.echo(f"fedjob: {explain(error, _role(sys.argv[1:] if args is None else args))}", err=True)
        sys.exit(2 if isinstance(error, (BrokerUnreachable, RepositoryUnreachable, NotPermitted)) else 1)


def _refuse(error: click.ClickException) -> NoReturn:
    """Print what is wrong with a command line, with the prefix that every error has, and how it is used."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        context = error.ctx if isinstance(error, click.UsageError) else None
        click.echo(f"fedjob: {printable(error.format_message())}", err=True)
        if context is not None:
            click.echo(context.get_usage(), err=True)
            click.echo(f"Examples and options: {context.command_path} --help", err=True)
    sys.exit(error.exit_code)


def _role(words: Sequence[str]) -> str:
    """Return the extra of fedjob whose packages a command line needs."""
    return words[0] if words and words[0] in ("hub", "node", "demo") else "researcher"


def explain(error: Exception, role: str = "") -> str:
    """Return an error of a user's, of their files or of their installation as one line that says what to do.

    Args:
        role: the extra of fedjob that is meant to have what is missing.
    """
    match error:
        case ModuleNotFoundError() if (error.name or "").split(".")[0] not in ("", "fedjob"):
            package = str(error.name).split(".")[0]
            return f"the package {package!r} is needed for this and not installed: {how_to_install(package, role)}"
        case sqlite3.Error():
            return (
                f"a database can't be used ({error}): look at the disk, and at who owns the files of --home"
            )
        case OSError() if not isinstance(error, FedjobError):
            where = f"{error.filename}: " if error.filename is not None else ""
            to = f" (to {error.filename2})" if error.filename2 is not None else ""
            return f"{where}{error.strerror or error}{to}{_remedy(error)}"
        case UnicodeError():
            return f"a text is not in the encoding that was expected ({error}): look for odd characters in it"
        case ValueError() if "null byte" in str(error):
            return "a text holds a null byte, which no name of a file may"
        case MemoryError():
            return "there is not enough memory for this: free some, or do less at once"
    return str(error) if isinstance(error, FedjobError) else _fault(error)


def _fault(error: Exception) -> str:
    """Return one line about an error that nobody foresaw, with its place in fedjob."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    words = printable(f"{type(error).__name__}: {error}")[:300]
    return f"this is a fault of fedjob itself: {words}{at}. {VARIABLE}=full shows the traceback for a report"


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ": this user may not do that there; give a folder of your own, or ask its owner"
        case errno.ENOSPC | errno.EDQUOT:
            return ": free some space, or give a folder on another disk"
        case errno.ENOENT:
            return ": look at the path"
        case errno.EISDIR | errno.ENOTDIR:
            return ": a file was expected where a folder is, or the other way round"
    return ""


def how_to_install(package: str, role: str = "") -> str:
    """Return the command that installs a package: with the extra of fedjob that brings it, where there is one.

    Args:
        package: the name by which it is imported.
        role: the extra to name if it is one of several that bring it.
    """
    from importlib.metadata import requires  # here: it takes a third of the time of a command line's start

    names = {package.lower(), *_DISTRIBUTIONS.get(package, ())}
    needs = [_NEED.match(need) for need in requires("fedjob") or ()]
    found = [need for need in needs if need is not None and need["name"].lower() in names]
    extras = {need["extra"]: None for need in found if need["extra"]}
    brings = {need["extra"]: need["of"] for need in needs if need is not None and need["name"] == "fedjob"}
    if role not in extras and set((brings.get(role) or "").split(",")) & set(extras):
        extras[role] = None  # it brings an extra that brings the package
    if extras:
        return f"pip install 'fedjob[{role if role in extras else min(extras)}]'"
    return f"pip install {sorted(names)[0]}"


_NEED = re.compile(r"(?P<name>[\w.-]+)(\[(?P<of>[\w,-]+)\])?[^;]*(;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")
"""A requirement in the metadata of an installed package (PEP 508): its name, its extras, and the extra it belongs to."""

_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "sklearn": ("scikit-learn",),
    "PIL": ("pillow",),
    "jwt": ("pyjwt",),
    "paho": ("paho-mqtt",),
    "socks": ("pysocks",),
}
"""Names under which packages are installed that are imported under others."""


def json_option(command: Any) -> Any:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    *,
    empty: str = "nothing to show",
    ids: Collection[str] = (),
) -> None:
    """Print rows that have the same keys: as JSON where it is asked for, else as a table, as `table` does."""
    if as_json:
        print_json(list(rows))
        return
    table(
        tuple(rows[0]) if rows else (),
        [tuple("yes" if v is True else "no" if v is False else str(v) for v in row.values()) for row in rows],
        empty=empty,
        ids=ids,
    )


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, ids: Collection[str] = ()
) -> None:
    """Print a table: as wide as the terminal at most, with colours for states; in a pipe one line a row, without.

    Args:
        ids: columns of ids, whose beginnings are enough where the terminal is narrow.
    """
    if not rows:
        click.echo(empty, err=not sys.stdout.isatty())
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table_lines(header, rows, width=width, colours=has_colours(sys.stdout), ids=ids):
        click.echo(line)


def show_fact(name: str, value: str, column: int) -> None:
    """Print a name and its value on a line; in a terminal a long value goes on below itself.

    Args:
        column: in which the value begins.
    """
    room = max(20, shutil.get_terminal_size().columns - column) if sys.stdout.isatty() else None
    text = printable(value)
    colour = colour_of(name, text) if has_colours(sys.stdout) else ""
    for number, line in enumerate([text] if room is None else wrapped(text, room) or [""]):
        click.echo(f"{'' if number else name:<{column}}{painted(line, colour)}")


def show_steps(steps: Iterable[tuple[str, str]], column: int) -> None:
    """Print what there is to do, and the command for each: beside it, or below it where a terminal is too narrow for one.

    Args:
        steps: text and command; a text that comes without a command is wrapped.
        column: in which the commands begin.
    """
    shown = [(printable(text), printable(command)) for text, command in steps]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    is_below = room is not None and any(column + width_of(command) > room for _, command in shown)
    for text, command in shown:
        if command and not is_below:
            click.echo(f"  {text}{' ' * (column - 2 - width_of(text))}{command}")
            continue
        for line in [text] if room is None else wrapped(text, room - 2):
            click.echo(f"  {line}")
        if command:
            click.echo(f"      {command}")


def size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
