"""The pages and docstrings as the blocks that a reader can copy, and what becomes of each in the tests.

A fence says what a block is:

    python, bash                a reader runs it, and so does `tests/e2e/test_pages.py`
    python heart.py             the second word is a file's name: a reader saves it under this name, so do the tests
    python fedjob/.../loop.py   a file of this checkout: the lines stand in it
    console WHY                 commands that need what a test has not; WHY is one of `REASONS`. Their commands,
                                arguments and options are compared with those that fedjob has
    text json toml ini          nothing that is typed

A block without a fence, four spaces in, is `bash` if each line begins with a command, else `python`.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]

RUN = ("python", "bash")
CHECKED = "console"
NOT_TYPED = {
    "text": "a form, an output or a drawing",
    "json": "a value that is shown",
    "toml": "a setting that is shown",
    "ini": "a setting that is shown",
}
REASONS = {
    "several machines": "each line belongs to another party's machine, with names and certificates of its own",
    "checkout": "it belongs to a checkout of fedjob, not to a reader's folder, and takes long or runs the tests",
    "system": "it changes the system: services, packages, accounts",
    "provider": "it needs somebody else's server, such as an OpenID provider, a mail server or a tracker",
    "data of yours": "it needs a file that only the reader has",
    "by hand": "somebody has to type at it, or to look at it until they have seen enough",
}
COMMANDS = ("fedjob", ".venv/bin/fedjob", ".venv/bin/python", "python", "make", "openssl", "curl", "pip")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a page.

    Args:
        page: path below the checkout.
        line: number of its first line of code in the page, from 1.
        language: of the fence, or what an indented block was found to be; "" if nobody can say.
        about: what the fence says after the language.
        text: without the indentation that all its lines share.
    """

    page: str
    line: int
    language: str
    about: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that it is, or "" if it is none."""
        return self.about if re.fullmatch(r"[\w./-]+\.\w+", self.about) else ""

    @property
    def excerpt(self) -> Path | None:
        """The file of this checkout that it is quoted from."""
        return ROOT / self.file if self.file.startswith(("fedjob/", "examples/", "tests/")) else None

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.about

    @property
    def why_not(self) -> str:
        """Why the tests do not run it; "" if they do, or if no allowed reason is given."""
        if self.language == CHECKED:
            return REASONS.get(self.about, "")
        return "" if self.language in RUN else NOT_TYPED.get(self.language, "")

    def commands(self) -> list[str]:
        """Return the commands of a `bash` or `console` block, one line each, without comments."""
        text = re.sub(r"\\\n\s*", " ", self.text)
        return [line for line in map(_without_comment, text.splitlines()) if line.strip()]


def pages() -> list[Path]:
    """Return every page for users: the README, `docs/`, and the pages of examples and of `envs/`."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    return sorted([*found, *ROOT.glob("envs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    return list(_blocks(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))))


def docstring_blocks(module: Path) -> list[Block]:
    """Return the blocks of Python in the docstrings of a module: those with statements, not formulas."""
    found = []
    name = str(module.relative_to(ROOT))
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            text := ast.get_docstring(node)
        ):
            line = node.body[0].lineno
            found += [replace(block, line=block.line + line - 1) for block in _blocks(text, name)]
    return sorted((block for block in found if _is_program(block.text)), key=lambda block: block.line)


def _is_program(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    return any(isinstance(node, kinds) for node in ast.walk(tree)) or bool(
        re.search(r"\b[A-Z]\w*[a-z]\w*\(", text)
    )


def _blocks(text: str, name: str) -> Iterator[Block]:
    for token in MarkdownIt().parse(text):
        if token.type == "fence":
            assert token.map is not None
            language, _, about = token.info.strip().partition(" ")
            yield Block(
                name, token.map[0] + 2, language, about.strip(), inspect.cleandoc("\n" + token.content)
            )
        elif token.type == "code_block":
            assert token.map is not None
            block = Block(name, token.map[0] + 1, "", "", token.content.rstrip("\n"))
            yield replace(block, language=_language(block))


def _language(block: Block) -> str:
    """Say what a block without a fence is."""
    lines = block.commands()
    if lines and all(line.startswith(COMMANDS) for line in lines):
        return "bash"
    try:
        ast.parse(block.text)
    except SyntaxError:
        return ""
    return "python"


def _without_comment(line: str) -> str:
    """Return a line of a shell without the comment at its end."""
    for found in re.finditer(r"(?:^|\s)#", line):
        try:
            shlex.split(line[: found.start()])
        except ValueError:  # within quotes
            continue
        return line[: found.start()].rstrip()
    return line.rstrip()
