"""The sections of a plan's text: the plan itself, and the modules that travel with it.

One text holds them all, so that one hash identifies them, one owner approves them and
one reader sees them. A module begins with a comment of its own:

    # --- fedjob module: helpers/nets.py ---
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.plan_source import syntax_tree

MAX_MODULES = 100
_MARK = "# --- fedjob module: "
_HEAD = re.compile(r"# --- fedjob module: ((?:[^\W\d]\w*/)*[^\W\d]\w*\.py) ---")


@dataclass(frozen=True)
class Section:
    """A module that travels with a plan.

    Args:
        path: from the folder that it is imported from, such as `helpers/nets.py`.
        text: of the file.
        first_line: of the text in the plan's whole text, from 1.
    """

    path: str
    text: str
    first_line: int = 0

    @property
    def module(self) -> str:
        """The name that it is imported by."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def joined(plan: str, sections: Sequence[Section]) -> str:
    """Return one text of a plan and its modules."""
    return plan + "".join(f"\n\n{_MARK}{part.path} ---\n{part.text}" for part in sections)


def split(text: str) -> tuple[str, tuple[Section, ...]]:
    """Take a text apart into the plan and its modules.

    Only a comment that begins a line is a boundary, never a line of a string.

    Raises:
        PlanError: a boundary has no such form, stands twice, or names a module of Python or of fedjob.
    """
    if _MARK not in text:
        return text, ()
    heads: list[tuple[int, str]] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and token.start[1] == 0 and token.string.startswith(_MARK):
                heads.append((token.start[0], token.string))
    except (tokenize.TokenError, SyntaxError) as error:
        raise PlanError(f"the plan is not valid Python: {error}") from error
    if not heads:
        return text, ()
    if len(heads) > MAX_MODULES:
        raise PlanError(
            f"the plan brings {len(heads)} modules along; at most {MAX_MODULES} travel with a plan"
        )
    lines = text.splitlines(keepends=True)
    ends = [number - 1 for number, _ in heads[1:]] + [len(lines)]
    found: dict[str, Section] = {}
    for (number, head), end in zip(heads, ends, strict=True):
        match = _HEAD.fullmatch(head.rstrip())
        if match is None:
            raise PlanError(f"line {number} of the plan begins no module: expected `{_MARK}name.py ---`")
        part = Section(match.group(1), _without_end("".join(lines[number:end])), number + 1)
        check_module_name(part.module)
        if part.module in found:
            raise PlanError(f"line {number} of the plan begins the module {part.module} a second time")
        found[part.module] = part
    return _without_end("".join(lines[: heads[0][0] - 1])), tuple(found.values())


def _without_end(text: str) -> str:
    """Return a section without the empty lines before the next one."""
    body = text.rstrip("\n")
    return f"{body}\n" if body else ""


def check_module_name(name: str) -> None:
    """Refuse a module that would stand in the place of another one that owners know.

    Raises:
        PlanError: it has the name of a module of Python's or of fedjob.
    """
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("fedjob", "builtins"):
        raise PlanError(
            f"the module {name} beside the plan has the name of one of {'fedjob' if top == 'fedjob' else 'Python'}: "
            "rename it, so that owners see which one is meant",
            name=name,
        )


def meaning(text: str) -> list[tuple[str, str]]:
    """Return the syntax trees of a plan and of its modules, without comments and formatting.

    Raises:
        SyntaxError, ValueError, RecursionError: it is not Python.
        PlanError: see `split`.
    """
    plan, sections = split(text)
    return [
        ("", ast.dump(syntax_tree(plan))),
        *((part.path, ast.dump(syntax_tree(part.text))) for part in sections),
    ]
