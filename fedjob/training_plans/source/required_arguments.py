"""The training arguments that a plan's methods take by name in any case, found in the plan's text."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence

from fedjob.common.errors import SpecError
from fedjob.training_plans.source.plan_source import syntax_tree

_NOT_ALWAYS = (
    ast.If,
    ast.IfExp,
    ast.Try,
    ast.For,
    ast.While,
    ast.Match,
    ast.Lambda,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
"""Parts of a method that do not run, or not whole, in every call."""


def check_arguments(
    text: str, entry: str, methods: Mapping[str, Sequence[str]], given: Collection[str]
) -> None:
    """Check that a plan is given the training arguments that its methods take in any case.

    Args:
        text: the plan's source; its class is `entry`. What it inherits from another class is not looked at.
        methods: name -> what it is called with, without `self`.
        given: the names of the arguments that there are.

    Raises:
        SpecError: one is missing; the method and its line are named.
    """
    for cls in syntax_tree(text).body:
        if not isinstance(cls, ast.ClassDef) or cls.name != entry:
            continue
        for method in cls.body:
            if not isinstance(method, ast.FunctionDef) or "training_args" not in methods.get(method.name, ()):
                continue
            for key, line in _taken(method, 1 + list(methods[method.name]).index("training_args")):
                if key not in given:
                    raise SpecError(
                        f"{entry}.{method.name} takes training_args[{key!r}] (line {line} of the plan), and there is no "
                        f"such argument: give training_args={{{key!r}: ..., ...}}"
                    )


def _taken(method: ast.FunctionDef, place: int) -> Iterator[tuple[str, int]]:
    names = [argument.arg for argument in (*method.args.posonlyargs, *method.args.args)]
    if place >= len(names):
        return
    for statement in method.body:
        yield from _within(statement, names[place])
        if isinstance(statement, _NOT_ALWAYS) and any(
            isinstance(inner, (ast.Return, ast.Raise)) for inner in ast.walk(statement)
        ):
            return  # what follows may not be reached


def _within(node: ast.AST, name: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, _NOT_ALWAYS):
        return
    if isinstance(node, ast.BoolOp):
        yield from _within(node.values[0], name)
        return
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    ):
        yield node.slice.value, node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _within(child, name)
