"""The text of a plan and of further code that it runs with, joined into one."""

from __future__ import annotations

import ast

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.plan_source import PlanSource, plan_hash, syntax_tree
from fedjob.training_plans.source.text_checks import check_plan_text


def joined(plan: PlanSource, other: PlanSource) -> PlanSource:
    """Return the plan with the code of another text after its own; what both have stands there once.

    Raises:
        PlanError: both texts define a name, and differently.
    """
    first = syntax_tree(plan.text)
    known = {ast.dump(statement) for statement in first.body}
    taken = {name for statement in first.body for name in _names(statement)}
    future, added = [], []
    for statement in syntax_tree(other.text).body:
        if ast.dump(statement) in known:
            continue
        segment = _segment(other.text, statement)
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            future.append(segment)
            continue
        if twice := sorted(taken & set(_names(statement))):
            raise PlanError(
                f"{plan.entry} and {other.entry} both define {twice[0]!r}, and differently: nodes get them as one text, "
                "so give one of the two another name",
                name=other.entry,
            )
        added.append(segment)
    if not added:
        return plan
    text = "\n\n".join(["\n".join([*future, plan.text.rstrip()]), *added]) + "\n"
    return PlanSource(check_plan_text(text), plan.entry, plan_hash(text))


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    return [
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def _segment(text: str, statement: ast.stmt) -> str:
    """Return the lines of a statement, its decorators among them."""
    decorators = getattr(statement, "decorator_list", [])
    start = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n".join(text.splitlines()[start - 1 : statement.end_lineno])
