"""The layout of the package: imports without circles, one name for one thing, files that say what they are.

import-linter holds the floors (`.importlinter`); what it can't see, because it draws rooms and not files, stands here.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

import fedjob
from fedjob.cli import cli

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("fedjob/**/*.py"))

MAX_MODULES_IN_A_FOLDER = 16
MAX_LINES_OF_A_CLASS = 350
MAX_LINES_OF_A_FUNCTION = 60

QUESTIONS = {"What", "Which", "Who", "Whose", "Whether", "How", "Why", "Where", "When"}
ACTS_OF_SPEECH = {"told", "said", "wish", "heard"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the modules of fedjob that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for target in arrows[node]:
            if target not in index:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], index[target])
        if lowest[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in list(arrows):
        if node not in index:
            visit(node)
    return found


def test_no_two_files_import_each_other_directly_or_in_a_circle() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        arrows[name] = set(imported_modules(path)) - {name}
    assert circles(arrows) == []


def test_a_circle_would_be_found() -> None:
    arrows = defaultdict(set, {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()})
    assert circles(arrows) == [["a", "b", "c"]]


def test_no_folder_has_more_modules_than_one_can_take_in() -> None:
    counted = Counter(path.parent for path in SOURCES if path.stem not in ("__init__", "__main__"))
    assert {str(folder): count for folder, count in counted.items() if count > MAX_MODULES_IN_A_FOLDER} == {}


def test_no_two_classes_share_a_name() -> None:
    defined = defaultdict(list)
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                defined[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


def test_every_file_begins_with_a_noun_phrase_and_not_with_a_question() -> None:
    asking = []
    for path in SOURCES:
        docstring = ast.get_docstring(tree(path))
        if docstring and docstring.split()[0].rstrip(",:") in QUESTIONS:
            asking.append(f"{path.relative_to(ROOT)}: {docstring.splitlines()[0]}")
    assert asking == []


def test_identifiers_name_the_value_and_not_an_act_of_speech() -> None:
    found = Counter(
        f"{path.relative_to(ROOT)}: {token.string}"
        for path in SOURCES
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and ACTS_OF_SPEECH & set(re.split(r"_+", token.string.lower()))
    )
    assert found == {}


def lines_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_class_is_longer_than_one_can_hold_in_mind() -> None:
    """`Job` alone may be longer: its docstring is the page on which users look up every argument."""
    long = {
        f"{path.relative_to(ROOT)}: {node.name}": lines_of(node)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and lines_of(node) > MAX_LINES_OF_A_CLASS and node.name != "Job"
    }
    assert long == {}


def test_no_function_is_longer_than_a_screen() -> None:
    """Docstrings are not counted: a long list of arguments is no long function."""
    long = {}
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = len((ast.get_docstring(node) or "").splitlines())
                if (lines := lines_of(node) - docstring) > MAX_LINES_OF_A_FUNCTION:
                    long[f"{path.relative_to(ROOT)}: {node.name}"] = lines
    assert long == {}


def test_the_public_names_are_the_same_for_users_and_for_type_checkers() -> None:
    typed = {
        alias.asname: node.module
        for branch in tree(ROOT / "fedjob" / "__init__.py").body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == fedjob._NAMES
    assert set(fedjob.__all__) == {"__version__", *fedjob._NAMES}
    assert all(hasattr(fedjob, name) for name in fedjob.__all__)


def commands_below(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every command of a group of the command line, imported."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands_below(command, (*words, name))


def test_every_command_of_the_command_line_is_where_its_table_says() -> None:
    assert {("job", "list"), ("node", "grants", "approve"), ("hub", "start")} <= set(commands_below(cli))
