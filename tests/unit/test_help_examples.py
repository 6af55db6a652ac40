"""The help of every command has an example, and every example is a command line that fedjob understands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedjob.cli import cli


def leaves(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that is no group, with the words that name it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


def examples(command: click.Command) -> list[str]:
    """Return the lines of a command's help that are command lines."""
    return [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("fedjob ")]


def understood(words: list[str]) -> tuple[str, ...]:
    """Parse a command line as fedjob does, without running it; return the words that name its command."""
    command: click.Command = cli
    context = click.Context(cli)
    path: list[str] = []
    while isinstance(command, click.Group):
        path.append(words.pop(0))
        command = command.get_command(context, path[-1]) or pytest.fail(
            f"there is no command {' '.join(path)}"
        )
        if not isinstance(command, click.Group):
            break
        context = click.Context(command, parent=context, info_name=path[-1])
    command.make_context(path[-1], words, parent=context)
    return tuple(path)


def test_every_command_has_an_example_that_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    num = 0
    for path, command in leaves(cli):
        shown = examples(command)
        assert shown, f"fedjob {' '.join(path)} --help has no example"
        named = set()
        for example in shown:
            words = shlex.split(example, comments=True)[1:]
            for word in words:  # files that have to be there
                if "/" not in word and Path(word).suffix and not word.startswith("-"):
                    Path(word).touch()
            try:
                named.add(understood(words))
            except click.UsageError as error:
                pytest.fail(f"{example}: {error.format_message()}")
            num += 1
        assert path in named, f"none of the examples of {' '.join(path)} is of itself: {named}"
    assert num > 100
