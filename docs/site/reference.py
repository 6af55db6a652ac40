"""The reference: every public name with its signature and docstring, and every command with its options.

The names are those of `fedjob/__init__.py`. Signatures and docstrings are read from the text of the modules: nothing
but the commands is imported, and these need no torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

import fedjob
from docs.site.links import ROOT
from fedjob.cli import cli


@dataclass(frozen=True, slots=True)
class Group:
    """One page of the reference.

    Args:
        page: its name.
        title, about: of it.
        modules: beginnings of the names of modules whose public names stand on it.
    """

    page: str
    title: str
    about: str
    modules: tuple[str, ...]


GROUPS = (
    Group(
        "jobs",
        "Jobs and sessions",
        "Define a job, run it, follow it, find it again.",
        (
            "researcher.jobs",
            "common.quorum",
            "common.lifecycle",
            "common.items",
            "researcher.monitoring",
            "researcher.storage",
        ),
    ),
    Group("plans", "Training plans and functions", "What you write and nodes run.", ("training_plans",)),
    Group(
        "protocols",
        "Training protocols and server optimizers",
        "What researcher and nodes compute together, round by round.",
        (
            "protocols.training",
            "protocols.evaluation",
            "protocols.inference",
            "protocols.plans",
            "protocols",
            "optimizers",
        ),
    ),
    Group(
        "analytics",
        "Statistics, regressions and intersections",
        "Answers without a model to train.",
        ("protocols.analytics", "protocols.psi"),
    ),
    Group("preprocessing", "Preprocessing steps", "What nodes do to the data first.", ("data",)),
    Group("compression", "Compression", "How parameters and answers travel in fewer bytes.", ("parameters",)),
    Group("aggregation", "Aggregators", "How contributions become one total.", ("aggregation",)),
    Group("selection", "Selectors", "Which nodes take part in a round.", ("researcher.selection",)),
    Group("hooks", "Hooks", "What happens on your side at the end of a round.", ("researcher.hooks",)),
    Group("privacy", "Protection", "What is asked of nodes before anything leaves them.", ("privacy",)),
    Group(
        "one_machine",
        "Simulations and sandboxes",
        "Many nodes on one machine.",
        ("researcher.simulation", "one_machine"),
    ),
    Group("errors", "Errors", "Everything that fedjob raises is a `FedjobError`.", ("common.errors",)),
)


def public_names() -> dict[str, str]:
    """Return the public names, each with its module."""
    return dict(fedjob._NAMES)


def group_of(module: str) -> Group:
    """Return the page on which the names of a module stand.

    Raises:
        LookupError: no page takes the module.
    """
    name = module.removeprefix("fedjob.") + "."
    fits = [
        (len(start), group) for group in GROUPS for start in group.modules if name.startswith(start + ".")
    ]
    if not fits:
        raise LookupError(
            f"no page of the reference takes {module}: add it to GROUPS in docs/site/reference.py"
        )
    return max(fits, key=lambda fit: fit[0])[1]


def names_of(group: Group) -> dict[str, str]:
    """Return the public names of a page, each with its module, in alphabetical order."""
    named = public_names()
    return {name: named[name] for name in sorted(named, key=str.lower) if group_of(named[name]) == group}


def page_of(group: Group) -> str:
    """Return the Markdown of one page of the reference."""
    parts = [f"# {group.title}\n\n{group.about}"]
    for name, module in names_of(group).items():
        parts.append(f"::: {module}.{name}")
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """Return the first page of the reference: every public name with the first line of its docstring."""
    parts = [
        "# Reference",
        "Everything that `import fedjob` gives. Signatures and words are those of the code.",
    ]
    for group in GROUPS:
        parts.append(f"## [{group.title}]({group.page}.md)")
        rows = [
            f"| [`{name}`][{module}.{name}] | {first_line(module, name)} |"
            for name, module in names_of(group).items()
        ]
        parts.append("\n".join(["| name | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def first_line(module: str, name: str) -> str:
    """Return the first line of the docstring of a public name; empty where it has none."""
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = ROOT / module.replace(".", "/") / "__init__.py"
    for text in _docstrings(ast.parse(path.read_text(encoding="utf-8")).body, name):
        return re.sub(r"\s+", " ", text.partition("\n\n")[0]).replace("|", "\\|")
    return ""


def _docstrings(body: list[ast.stmt], name: str) -> Iterator[str]:
    """Yield what explains a name in its module: a function may have several forms, a value has words below it."""
    for node, below in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.ClassDef() | ast.FunctionDef() if node.name == name:
                yield from filter(None, [ast.get_docstring(node)])
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield text


def commands() -> str:
    """Return the Markdown of the page of all commands."""
    parts = ["# Commands", "What `fedjob` and each of its commands take; `--help` prints the same."]
    parts += list(_commands(cli, "fedjob", 1))
    return "\n\n".join(parts) + "\n"


def _commands(command: click.Command, path: str, depth: int) -> Iterator[str]:
    context = click.Context(command, info_name=path, color=False, terminal_width=76)
    if depth > 1:
        yield f"{'#' * min(depth, 3)} {path}"
    yield f"```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, f"{path} {name}", depth + 1)
