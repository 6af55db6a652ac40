"""The location where a plan was written: a file, a notebook's cells, or the body of a function."""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.bindings import Binding, Module, Unit, bound_names, has_future_annotations
from fedjob.training_plans.source.brought_modules import NOWHERE, Surroundings, surroundings_of
from fedjob.training_plans.source.changes import EVERYTHING, changes_of
from fedjob.training_plans.source.comparison import is_compiled_by_python
from fedjob.training_plans.source.dependencies import Locate
from fedjob.training_plans.source.plan_source import PLAN_FILENAME, Origins, line_words, syntax_tree
from fedjob.training_plans.source.text_checks import decode_plan

Definition = type | types.FunctionType
_Scopes = (ast.FunctionDef, ast.AsyncFunctionDef)
_TRANSPARENT_MAGICS = frozenset({"time", "timeit", "capture", "prun"})


@dataclass
class SourceLocation:
    """A definition and the module around it.

    Args:
        live: the namespace as it is now; empty for a file that was not imported.
        locate: where a live function or class was written.
        strict: the file was not imported, so that there is nothing to compare the text with.
        exact: the text is that of a plan already, and nothing has to be compared.
        around: the folder that modules beside the plan are taken from.
    """

    name: str
    entry: Binding
    module: Module
    path: str
    live: Mapping[str, Any] = field(default_factory=dict)
    locate: Locate = lambda found: None
    strict: bool = False
    exact: bool = False
    around: Surroundings = NOWHERE


def place_in_file(plan: str) -> SourceLocation:
    """Find "file.py:Class" without importing or running the file.

    Raises:
        PlanError: wrong form, no such file, not valid Python, or no such class.
    """
    path, _, name = plan.rpartition(":")
    if not path or not name.isidentifier():
        raise PlanError(f"a plan in a file is named 'file.py:Class'; found {plan!r}", path=path or plan)
    unit = Unit(_read(Path(path)), path)
    module = _module_of([unit], path)
    main = name in module.guarded and not module.of(name)
    if main:  # whoever names a class under the main guard means the file as it runs as a program
        module = _module_of([unit], path, main=True)
    _find_changes(module, unit, _parse(unit, path), main=main, strict=True)
    found = [b for b in module.of(name) if b.kind in ("class", "function", "block")]
    if not found:
        names = sorted({n for b in module.bindings if b.kind == "class" for n in b.names})
        raise PlanError(
            f"{path} defines no class {name!r} at its top level; "
            f"its classes are {', '.join(names) or 'none'}",
            path=path,
            name=name,
        )
    return SourceLocation(name, found[-1], module, path, strict=True, around=surroundings_of(path, None))


def _find_changes(module: Module, unit: Unit, tree: ast.Module, *, main: bool, strict: bool) -> None:
    """Note what a file changes after its definition.

    Args:
        strict: the file is only read; else what its names stand for is looked at instead, and what is put
            into other modules alone is noted.
    """
    for name, change in changes_of(tree.body, main=main).items():
        place = unit.label, change.line
        if change.patch:
            module.patched.setdefault(name, place)
        if strict and name == EVERYTHING:
            for binding in module.bindings:
                if binding.kind != "import":
                    module.changed.update(dict.fromkeys(binding.names, place))
        elif strict:
            module.changed.setdefault(name, place)


def place_of(definition: Definition) -> SourceLocation:
    """Find where a class or function was written.

    Raises:
        PlanError: it has no source, or the source is no longer the one it was made from.
    """
    name = definition.__name__
    if not name.isidentifier():
        raise PlanError(
            "a lambda can't be sent to nodes by its name: write a function with def, or a class", name=name
        )
    codes = list(_codes(definition))
    filename = codes[0].co_filename if codes else ""
    module = sys.modules.get(definition.__module__)
    shell = _shell()
    if filename and Path(filename).is_file():
        return _place_in_source(definition, filename, codes, vars(module) if module else {})
    if filename.startswith(PLAN_FILENAME) and filename in linecache.cache:
        # it was built from a plan's text: a plan at a node that submits a job of its own
        text = "".join(linecache.getlines(filename))
        return _place_in_source(definition, filename, codes, {}, text)
    if shell is not None and definition.__module__ == "__main__":
        return _place_in_notebook(definition, shell, filename)
    path = getattr(module, "__file__", None)
    if path and Path(path).is_file() and (not filename or filename == path):
        return _place_in_source(definition, str(path), codes, vars(module) if module else {})
    raise PlanError(
        f"the source of {name} can't be obtained ({definition.__module__}): "
        "write the plan in a file or in a notebook, not at an interactive prompt",
        path=filename or None,
        name=name,
    )


def _place_in_source(
    definition: Definition,
    path: str,
    codes: list[types.CodeType],
    live: Mapping[str, Any],
    text: str | None = None,
) -> SourceLocation:
    unit = Unit(_read(Path(path)) if text is None else text, path)
    main = live.get("__name__") == "__main__"
    package = live.get("__package__")
    module = _module_of([unit], path, main=main)
    parts = [part for part in definition.__qualname__.split(".") if part != "<locals>"]
    tree = _parse(unit, path)
    chains = list(_chains(tree.body, parts, []))
    lines = [code.co_firstlineno for code in codes if code.co_filename == path]
    fitting = [
        chain
        for chain in chains
        if all(_first(chain[-1][1]) <= n <= (chain[-1][1].end_lineno or 0) for n in lines)
    ]
    # IPython's autoreload compiles edited methods alone, on lines of their own: the text is compared with what runs
    fitting = fitting or (chains if is_compiled_by_python(live) else [])
    name = definition.__name__
    if not fitting:
        raise PlanError(
            f"the source of {name} can't be obtained: {path} does not define it where it was imported from: write it "
            "there with class or def, not by exec or type(); if the file was changed since, import it again (restart "
            "the program or the kernel)",
            path=path,
            name=name,
        )
    chain = fitting[-1]
    _find_changes(module, unit, tree, main=main, strict=False)
    if any(isinstance(owner, ast.ClassDef) for _, owner in chain[:-1]):
        raise PlanError(
            f"{definition.__qualname__} is defined inside another class: move it to the top level", name=name
        )
    if len(chain) > 1:
        _add_enclosing(module, unit, tree, chain)
        live = {}  # a function's own variables are not the module's
    entry = [b for b in module.of(name) if b.place[1] <= _first(chain[-1][1]) <= b.last_line]
    if not entry:
        raise PlanError(
            f"{name} is defined where no plan can be taken from ({path}, line {_first(chain[-1][1])}): move it to "
            'the top level of the file, to a function, or directly under `if __name__ == "__main__":`',
            path=path,
            name=name,
        )
    around = surroundings_of(path, package) if text is None else NOWHERE
    return SourceLocation(name, entry[-1], module, path, live, exact=text is not None, around=around)


def _add_enclosing(
    module: Module, unit: Unit, tree: ast.Module, chain: list[tuple[list[ast.stmt], ast.stmt]]
) -> None:
    """Add the variables of the functions (and blocks) around a local class; inner ones come last and win."""
    future = has_future_annotations(tree)
    for (_, owner), (body, _) in itertools.pairwise(chain):
        arguments = getattr(owner, "args", None)
        if isinstance(arguments, ast.arguments):
            names = [a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)]
        else:
            inside = {id(node) for statement in body for node in ast.walk(statement)}
            names = sorted(_own_names(owner, inside))
        if names:
            text = f"{type(owner).__name__} {', '.join(names)}"
            module.bindings.append(
                Binding(tuple(names), "other", text, owner, unit, (0, owner.lineno), owner.lineno, future)
            )
        module.add(unit, body, 0, future=future)


def _own_names(owner: ast.stmt, inside: set[int]) -> set[str]:
    """Return the names that a block's head binds, `with ... as name` and the like."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(owner):
        if id(child) not in inside and not isinstance(child, ast.stmt):
            found |= bound_names(child)
    return found


def _chains(
    body: list[ast.stmt], parts: list[str], above: list[tuple[list[ast.stmt], ast.stmt]]
) -> Iterator[list[tuple[list[ast.stmt], ast.stmt]]]:
    """Yield every way to a qualified name: pairs of a body and the statement in it that goes on."""
    for node in body:
        chain = [*above, (body, node)]
        if isinstance(node, (*_Scopes, ast.ClassDef)):
            if node.name == parts[0]:
                if len(parts) == 1:
                    yield chain
                else:
                    yield from _chains(node.body, parts[1:], chain)
            continue
        for block in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, block, [])
            for nested in [h.body for h in inner] if block == "handlers" else [inner]:
                if nested:
                    # a block at the top level is one binding; inside a function it is looked into
                    yield from _chains(nested, parts, chain if above else above)


def _place_in_notebook(definition: Definition, shell: Any, filename: str) -> SourceLocation:
    units = list(_cells(shell))
    live = dict(shell.user_ns)
    name = definition.__name__
    if "<locals>" in definition.__qualname__ or "." in definition.__qualname__:
        raise PlanError(
            f"{definition.__qualname__} is defined inside a function or a class: "
            "move it to the top level of a cell",
            name=name,
        )
    # cells that were run without being recorded are known by their code alone
    for found in (definition, *live.values()):
        text = _cached_text(found)
        if text is not None and all(text != unit.text for unit in units):
            units.append(Unit(text, "a cell"))
    module = _module_of(units, "the notebook", skip_broken=True, main=True)

    def locate(found: object) -> tuple[Unit, int] | None:
        text = _cached_text(found)
        same = [unit for unit in units if text is not None and unit.text == text]
        if not same:
            return None
        lines = [code.co_firstlineno for code in _codes(found)]
        return same[-1], lines[0] if lines else 0

    candidates = [b for b in module.of(name) if b.kind in ("class", "function", "block")]
    place = locate(definition)
    if place is not None:
        candidates = [b for b in candidates if b.unit is place[0]] or candidates
    if not candidates:
        raise PlanError(f"no cell of this notebook defines {name}: run the cell that does", name=name)
    around = Surroundings(Path.cwd().resolve())
    return SourceLocation(name, candidates[-1], module, "the notebook", live, locate, around=around)


def _cells(shell: Any) -> Iterator[Unit]:
    """Yield the cells that ran, in order, with magics turned into Python."""
    for number, text in enumerate(shell.history_manager.input_hist_parsed):
        if text.strip():
            yield Unit(_without_magic(text, shell), f"cell {number}")


def _without_magic(text: str, shell: Any) -> str:
    """Look into a cell under `%%time` and the like, whose body runs as if it stood alone."""
    try:
        body = syntax_tree(text).body
    except (SyntaxError, ValueError):
        return text
    if len(body) != 1 or not isinstance(body[0], ast.Expr) or not isinstance(body[0].value, ast.Call):
        return text
    call = body[0].value
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "run_cell_magic" or len(call.args) != 3:
        return text
    values = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    if len(values) != 3 or values[0] not in _TRANSPARENT_MAGICS:
        return text
    return str(shell.transform_cell(values[2]))


def _cached_text(found: object) -> str | None:
    """Return the text of the cell that a live function or class came from."""
    if not isinstance(found, (type, types.FunctionType)) or found.__module__ != "__main__":
        return None
    for code in _codes(found):
        entry = linecache.cache.get(code.co_filename)
        if entry is not None and len(entry) == 4 and not Path(code.co_filename).is_file():
            return "".join(entry[2])
    return None


def _codes(found: object) -> Iterator[types.CodeType]:
    """Yield the code of a function, or of a class's own methods."""
    if isinstance(found, types.FunctionType):
        inner: object = found
        while hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        yield getattr(inner, "__code__", found.__code__)
    elif isinstance(found, type):
        for item in list(vars(found).values()):
            function = getattr(item, "__func__", getattr(item, "fget", item))
            if isinstance(function, types.FunctionType) and function.__qualname__.startswith(
                f"{found.__qualname__}."
            ):
                inner = function
                while hasattr(inner, "__wrapped__"):
                    inner = inner.__wrapped__
                code = getattr(inner, "__code__", None)
                # methods that a decorator such as dataclass wrote have no text
                if isinstance(code, types.CodeType) and not code.co_filename.startswith("<string>"):
                    yield code


def _shell() -> Any:
    """Return the running IPython shell, None outside of one; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _module_of(units: list[Unit], path: str, *, skip_broken: bool = False, main: bool = False) -> Module:
    module = Module()
    for number, unit in enumerate(units):
        try:
            tree = _parse(unit, path)
        except PlanError:
            if skip_broken:  # a cell that is not Python did not run
                continue
            raise
        module.add(unit, tree.body, number, future=has_future_annotations(tree), main=main)
    return module


def _parse(unit: Unit, path: str) -> ast.Module:
    try:
        return syntax_tree(unit.text, path)
    except (SyntaxError, ValueError) as error:
        raise PlanError(f"{path} is not valid Python: {error}", path=path) from error


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path} can't be read: {error.strerror}", path=path) from error
    return decode_plan(data, path=path)


def _first(node: ast.stmt) -> int:
    return min([int(node.lineno), *(int(d.lineno) for d in getattr(node, "decorator_list", []))])


def where(error: BaseException, origins: Origins = ()) -> str:
    """Name the class of an error and the lines inside the plan's own text, and no values.

    Args:
        origins: where these lines were written: then the user's own file and line are named.
    """
    lines = [
        frame.lineno or 0
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(PLAN_FILENAME)
    ]
    if origins and lines:
        return f"{type(error).__name__} at {'; '.join(line_words(line, origins) for line in lines)}"
    place = f" at plan line {', '.join(map(str, lines))}" if lines else ""
    return f"{type(error).__name__}{place}"
