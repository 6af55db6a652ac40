"""The blocks of the documentation: each says what it is, and those that no test runs are named, with the reason."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import click
import pytest

from fedjob.cli import cli
from tests.pages import CHECKED, COMMANDS, NOT_TYPED, REASONS, ROOT, Block, blocks, pages

BLOCKS = [block for page in pages() for block in blocks(page)]

NOT_RUN = {
    "README.md": {"checkout": 2, "by hand": 1, "several machines": 3},
    "docs/federation.md": {"several machines": 7},
    "docs/figures.md": {"checkout": 1},
    "docs/identity.md": {"provider": 1},
    "docs/life.md": {"system": 1},
    "docs/monitoring.md": {"several machines": 1},
    "docs/network.md": {"several machines": 3},
    "docs/operations.md": {"system": 5},
    "docs/owner_page.md": {"by hand": 3},
    "docs/privacy.md": {"checkout": 3},
    "docs/queue.md": {"system": 1},
    "docs/rabbitmq.md": {"several machines": 2},
    "docs/researcher_page.md": {"by hand": 1},
    "docs/scale.md": {"several machines": 1},
    "docs/speed.md": {"checkout": 1},
    "docs/start_hub.md": {"checkout": 1, "several machines": 2},
    "docs/start_owner.md": {"checkout": 1, "several machines": 1},
    "docs/start_researcher.md": {"checkout": 1, "several machines": 1},
    "docs/tls.md": {"several machines": 3},
    "docs/wire.md": {"checkout": 1},
    "examples/flamby_heart/README.md": {"checkout": 1},
}
"""Page -> reason -> number of blocks with commands that `tests/e2e/test_pages.py` does not type."""


def named(found: list[Block]) -> str:
    return "\n".join(f"{block.place} {block.language} {block.about}: {block.text[:60]!r}" for block in found)


def test_every_block_says_what_it_is() -> None:
    unknown = [block for block in BLOCKS if not (block.runs or block.file or block.why_not)]
    assert not unknown, (
        "give each a fence: python or bash, which are run; a file's name after the language; "
        f"console and one of {', '.join(REASONS)}; or one of {', '.join(NOT_TYPED)}\n{named(unknown)}"
    )


def test_the_index_of_the_documentation_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in sorted(ROOT.glob("docs/*.md")) if f"]({page.name})" not in index] == [
        "README.md"
    ]


def test_what_is_not_run_is_known_by_page_reason_and_number(record_property: pytest.RecordProperty) -> None:
    found: dict[str, Counter[str]] = {}
    for block in BLOCKS:
        if block.language == CHECKED:
            found.setdefault(block.page, Counter())[block.about] += 1
            record_property(block.place, f"not run: {block.why_not}")
    assert found == NOT_RUN, named([block for block in BLOCKS if block.language == CHECKED])


def test_no_command_hides_in_a_block_that_is_not_typed() -> None:
    """A line that begins like a command is a form there, with alternatives or what may be left out."""
    hidden = [
        f"{block.place}: {line}"
        for block in BLOCKS
        if block.language in NOT_TYPED and not block.file
        for line in block.commands()
        if line.split()[0] in COMMANDS and not re.search(r"[|\[<]|\b[A-Z]{2,}\b", line)
    ]
    assert hidden == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == CHECKED], ids=lambda block: block.place)
def test_commands_that_are_not_run_have_the_arguments_and_options_of_fedjob(block: Block) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in block.commands():
        for command in line.split("&&"):
            words = shlex.split(command)
            if Path(words[0]).name == "fedjob":
                check(words[1:])
            elif words[0] == "make":
                assert set(words[1:]) <= set(targets), line


def check(words: list[str]) -> None:
    """Read a command of fedjob as it would be read, without running it.

    Raises:
        click.UsageError: there is no such command or option.
    """
    command: click.Command = cli
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        context, command = click.Context(found, info_name=name, parent=context), found
    given, left, _ = command.make_parser(context).parse_args(list(words))
    assert left == []
    needed = [given.get(str(param.name)) for param in command.params if param.required]
    assert all(isinstance(value, str | tuple | list | bool) and value for value in needed)


def test_a_command_with_a_wrong_word_is_found() -> None:
    check(["node", "grants", "show", "ID", "--code"])
    for wrong in (["node", "grants", "shov", "ID"], ["node", "grants", "show", "ID", "--cod"]):
        with pytest.raises(click.UsageError):
            check(wrong)
    with pytest.raises(AssertionError):
        check(["node", "grants", "show"])


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.excerpt], ids=lambda block: block.place)
def test_what_is_quoted_stands_in_the_file(block: Block) -> None:
    assert block.excerpt is not None
    lines = [line.strip() for line in block.excerpt.read_text(encoding="utf-8").splitlines()]
    quoted = [line.strip() for line in block.text.splitlines()]
    assert any(lines[start : start + len(quoted)] == quoted for start in range(len(lines)))
