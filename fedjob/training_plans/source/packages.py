"""The packages that a plan imports, and those of them that are not installed."""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.plan_source import syntax_tree, without_program
from fedjob.training_plans.source.sections import split


def imported_packages(text: str) -> tuple[str, ...]:
    """Return the packages that a plan imports, and those that its class lists in `requires`.

    Neither the standard library nor fedjob is among them, nor the modules that travel
    with the plan, nor an import that the plan can do without (inside `try` with
    `except ImportError`, or under `if __name__ == "__main__":`).
    """
    brought = {part.module.partition(".")[0] for part in split(text)[1]}
    try:
        tree = without_program(syntax_tree(text))
    except (SyntaxError, ValueError) as error:
        raise PlanError(f"the plan is not valid Python: {error}") from error
    found: set[str] = set()
    _collect_imports(tree, found)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.update(_required(node))
    return tuple(sorted(found - set(sys.stdlib_module_names) - {"fedjob"} - brought))


def missing_packages(text: str) -> tuple[str, ...]:
    """Return those of `imported_packages` that are not installed here; nothing is imported."""
    return tuple(name for name in imported_packages(text) if not _is_installed(name))


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _collect_imports(tree: ast.AST, found: set[str]) -> None:
    waiting = [tree]  # and no recursion: a tree may be deeper than Python's own stack
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        children: list[ast.AST] = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
            children = [child for child in children if child not in node.body]
        waiting += children


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def _required(cls: ast.ClassDef) -> tuple[str, ...]:
    for node in cls.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is None or not any(isinstance(t, ast.Name) and t.id == "requires" for t in targets):
            continue
        try:
            names = ast.literal_eval(value)
        except ValueError:
            return ()
        names = (names,) if isinstance(names, str) else names
        if isinstance(names, (tuple, list)):
            return tuple(str(name).split(".")[0] for name in names)
    return ()
