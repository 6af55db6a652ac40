"""The columns that a job's operation needs, compared with those that nodes publish, before any owner is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fedjob.common.checks import some_of
from fedjob.common.errors import SpecError
from fedjob.common.quorum import Verdict, reasons_text
from fedjob.data.preprocessing import PlainSteps
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import NUMBERS
from fedjob.researcher.storage.spec import JobSpec

Schema = Mapping[str, str]
"""Column -> type, as a node publishes them."""

_NUMERIC = ("int", "float", "bool")
_AS_THEY_ARE = ("target", "filter", "impute", "scale")
"""Steps after which there are the same columns as before."""


def check_columns(spec: JobSpec, schemas: Mapping[str, Schema]) -> None:
    """Check that enough nodes have the columns that a job's operation and its preprocessing name.

    A node that lacks some is left out when it is asked; that is for the quorum to allow.

    Args:
        spec: with its datasets.
        schemas: node -> its columns; a node that publishes none is not looked at.

    Raises:
        SpecError: so many lack some that the quorum can't be met; every node's own lack is named.
    """
    needed = PROTOCOLS.build(spec.protocol.name, spec.protocol.config).needed_columns
    problems = {}
    for node, info in spec.datasets.items():
        if schema := schemas.get(node):
            found = _problem(schema, info.get("preprocess") or [], needed)
            if found:
                problems[node] = found
    quorum = spec.the_quorum
    if not problems or quorum.decide(list(spec.datasets), (), list(problems)) is not Verdict.IMPOSSIBLE:
        return
    others = len(spec.datasets) - len(problems)
    without = (
        f". To go on without {some_of(sorted(problems))}: quorum=Quorum(min_nodes={others})" if others else ""
    )
    raise SpecError(f"the data do not fit, and nobody was asked yet: {reasons_text(problems)}{without}")


def _problem(schema: Schema, steps: PlainSteps, needed: Mapping[str, str]) -> str:
    """Return what is wrong with one dataset; empty for nothing that could be seen from its columns."""
    types: dict[str, str] = dict(schema)
    for step in steps:
        name, columns = str(step.get("step")), _columns_of(step)
        if absent := [column for column in columns if column not in types]:
            return f"preprocessing ({name}): {_no_column(absent, types)}"
        if name == "select":
            types = {column: types[column] for column in columns}
        elif name == "cast":
            types |= dict.fromkeys(columns, str(step.get("to")))
        elif name not in _AS_THEY_ARE:
            return ""  # the names and types after it are known at the nodes
        elif name == "impute":
            types |= dict.fromkeys(columns, "")
    if absent := [column for column in needed if column not in types]:
        return _no_column(absent, types)
    texts = [
        f"{column} ({types[column]})"
        for column, kind in needed.items()
        if kind == NUMBERS and types[column] and types[column] not in _NUMERIC
    ]
    return f"expected numbers, found {', '.join(texts)}: cast or encode first (preprocess=)" if texts else ""


def _columns_of(step: Mapping[str, Any]) -> Sequence[str]:
    columns = step.get("columns") or step.get("column") or ()
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _no_column(absent: Sequence[str], types: Schema) -> str:
    near = [match for name in absent for match in get_close_matches(name, types, 1)]
    hint = f" (did you mean {', '.join(map(repr, near))}?)" if near else ""
    there = ", ".join(list(types)[:20]) + (", ..." if len(types) > 20 else "")
    return f"there is no column {', '.join(map(repr, absent))}{hint}; there are {there}"
