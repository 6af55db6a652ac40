"""Every command that can take over a second shows that it goes on; what shows nothing reads a home and no more."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator

import click
import pytest

from fedjob.cli import cli

SIGNS = ("still_going_on", "Redrawn", "serve_page")
"""What a command shows that it goes on with."""

READS_A_HOME = (
    "hub invite", "hub party list", "hub party revoke", "hub status", "job list", "job stop", "logout", "new",
    "node audit", "node budget history", "node budget set", "node budget show", "node config get",
    "node config set", "node config show", "node config unset", "node data list", "node data remove", "node data set",
    "node data show", "node grants allow", "node grants approve", "node grants know", "node grants list",
    "node grants project", "node grants reject", "node grants researchers", "node grants revoke", "node grants show",
    "node kill", "node logs", "node model list", "node model remove", "node secrets list", "node secrets remove",
    "node secrets set", "node state drop", "node state list", "node status", "node tasks",
)  # fmt: skip
"""Commands that look into the files of their home, or write a few lines there."""

SPEAKS = {
    "demo": "prints each step",
    "federation create": "asks for passphrases",
    "federation roster show": "reads a file",
    "job wait": "prints the job's events as they come",
    "login": "prints where to log in, and waits for the person",
}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command, info_name=path[-1] if path else "fedjob")
    if command.invoke_without_command and path:
        yield " ".join(path), command
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


COMMANDS = dict(leaves(cli))


def called(function: object) -> set[str]:
    """Return the names that a function uses, and those that functions of its own module use that it calls."""
    found: set[str] = set()
    due = [inspect.unwrap(function)]  # type: ignore[arg-type]
    module = sys.modules[due[0].__module__]
    seen = set()
    while due:
        one = due.pop()
        if one in seen:
            continue
        seen.add(one)
        names = {
            node.id for node in ast.walk(ast.parse(inspect.getsource(one))) if isinstance(node, ast.Name)
        }
        found |= names
        due += [
            function
            for name in names
            if inspect.isfunction(function := inspect.unwrap(getattr(module, name, None)))  # type: ignore[arg-type]
            and function.__module__ == module.__name__
        ]
    return found


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {*READS_A_HOME} - {*SPEAKS}))
def test_a_command_that_can_take_long_shows_that_it_goes_on(name: str) -> None:
    assert called(COMMANDS[name].callback) & {*SIGNS}, (
        f"fedjob {name} shows nothing while it works: wrap what takes long in "
        "`with still_going_on(...)`, or say above why it needs none"
    )


def test_what_needs_no_sign_is_a_command() -> None:
    assert {*READS_A_HOME, *SPEAKS} <= {*COMMANDS}
    assert not {*READS_A_HOME} & {*SPEAKS}
