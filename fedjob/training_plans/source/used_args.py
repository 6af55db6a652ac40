"""The training arguments that a plan's text reads: syntax only, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from fedjob.common.errors import PlanError, SpecError
from fedjob.training_plans.source.plan_source import syntax_tree

_METHODS = {"init_optimizer": 1, "training_data": 1, "testing_data": 1, "train": 2}
"""Methods that are given the training arguments, with their place."""


def unread_args(text: str, names: Iterable[str]) -> list[str]:
    """Return those of some arguments that a plan's text never reads.

    Where it hands all of them on, as `SGD(parameters, **training_args)` does, nobody can
    tell, and none is returned.

    Raises:
        PlanError: the text is not valid Python.
    """
    try:
        tree = syntax_tree(text)
    except (SyntaxError, ValueError) as error:
        raise PlanError(f"the plan is not valid Python: {error}") from error
    words = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unread = [name for name in names if name not in words]
    return [] if not unread or _hands_all_on(tree) else unread


def check_read(text: str, entry: str, names: Iterable[str]) -> None:
    """Refuse training arguments that would have no effect.

    Raises:
        SpecError: the plan's text never reads one of them; it is named.
    """
    unread = unread_args(text, names)
    if unread:
        raise SpecError(
            f"training_args {unread[0]!r} would have no effect, because {entry} never reads it: read it, as in "
            f"training_args[{unread[0]!r}] in init_optimizer, or leave it out"
        )


def _hands_all_on(tree: ast.Module) -> bool:
    names = {"training_args"}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in _METHODS:
            given = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)][1:]
            names.update(given[_METHODS[node.name] :][:1])
    read = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr == "get")
    }
    read |= {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in node.comparators
    }
    for node in ast.walk(tree):
        is_args = (isinstance(node, ast.Name) and node.id in names) or (
            isinstance(node, ast.Attribute) and node.attr == "training_args"
        )
        if is_args and isinstance(node.ctx, ast.Load) and id(node) not in read:  # type: ignore[attr-defined]
            # `self.training_args.epochs` is a read of one of fedjob's own
            inside = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.value is node]
            if not inside or inside[0].attr in ("items", "values", "raw", "to_dict", "for_user", "keys"):
                return True
    return any(
        isinstance(node, ast.Subscript)
        and not isinstance(node.slice, ast.Constant)
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in names
        for node in ast.walk(tree)
    )
