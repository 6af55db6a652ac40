"""The source of a plan: the text that travels, the hash that identifies it, and the tree that Python makes of it.

Python before 3.13 counts the depth of a tree for the whole process: two threads that each make one can end in a SystemError
(https://github.com/python/cpython/issues/106905).
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass, field

from fedjob.training_plans.state.thread_turns import ThreadTurn

SOURCE_ATTRIBUTE = "__fedjob_source__"
"""Of a compiled class: the source that it was made of."""

PLAN_FILENAME = "<plan "
"""Every plan's file name in tracebacks begins so, and goes on with its hash."""


Origins = tuple[tuple[str, int], ...]
"""For each line of a text the file or cell and the line where its user wrote it; ("", 0) for none."""


@dataclass(frozen=True)
class PlanSource:
    """A plan as it travels.

    Args:
        text: Python that needs nothing but what it imports.
        entry: the name of the class in it.
        sha256: of the text in UTF-8: what an owner approves.
        origins: of its lines, where it was extracted here; they do not travel.
    """

    text: str
    entry: str
    sha256: str
    origins: Origins = field(default=(), compare=False, repr=False)


def plan_hash(text: str) -> str:
    """Return what identifies a plan's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def line_words(line: int, origins: Origins) -> str:
    """Return the words for a line of a plan's text: the user's own file and line where they are known."""
    label, number = origins[line - 1] if 0 < line <= len(origins) else ("", 0)
    return f"{label}, line {number}" if label else f"line {line} of the plan"


TREES = ThreadTurn()
"""The turn to make a tree, or code of a tree."""


def syntax_tree(text: str, filename: str = "<unknown>") -> ast.Module:
    """Return the tree of a text.

    Raises:
        SyntaxError, ValueError: it is not valid Python, or nested more deeply than Python takes.
    """
    with TREES.taken():
        try:
            return ast.parse(text, filename)
        except (RecursionError, MemoryError) as error:  # which of them is a matter of the depth
            raise ValueError("it is nested too deeply") from error


def without_program(tree: ast.Module) -> ast.Module:
    """Return a tree without what stands under `if __name__ == "__main__":`, which runs at no node."""
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            kept += node.orelse
        else:
            kept.append(node)
    return ast.Module(kept, tree.type_ignores)
