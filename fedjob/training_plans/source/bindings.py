"""The definitions in a piece of Python text, and the names that each one uses: syntax only, nothing is run."""

from __future__ import annotations

import ast
import builtins
import copy
import symtable
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from fedjob.training_plans.source.plan_source import syntax_tree

Kind = Literal["import", "star", "relative", "function", "class", "constant", "block", "other"]

BUILTINS = frozenset(dir(builtins)) - {"get_ipython", "display", "__IPYTHON__"} | {"__name__"}
"""Names that need no definition; notebooks add the three left out, nodes don't have them."""

_CONVERTERS = frozenset({"set", "frozenset", "dict", "tuple", "list", "range", "float", "int", "bool", "str"})
_CONVERTERS |= {"abs", "len", "max", "min", "round", "sorted", "sum", "hasattr"}
MUTATORS = frozenset({"append", "extend", "insert", "update", "add", "pop", "popitem", "remove", "discard"})
MUTATORS |= {"appendleft", "clear", "extendleft", "move_to_end", "popleft", "reverse", "setdefault", "sort"}
MUTATORS |= {"__setitem__", "__delitem__", "__setattr__", "__iadd__", "__ior__", "subtract", "rotate"}
_OF_ONE_PROCESS = frozenset({"os.environ", "os.environb", "sys.argv", "sys.orig_argv", "sys.path"})
_OF_ONE_PROCESS |= {"os.getenv", "os.getcwd", "sys.executable", "sys.modules", "sys.stdin", "os.getpid"}


@dataclass(frozen=True)
class Unit:
    """A file or a notebook cell.

    Args:
        text: Python, cells with their magics already turned into calls.
        label: a file's path, or a cell's name.
    """

    text: str
    label: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")


@dataclass(frozen=True, eq=False)
class Binding:
    """A statement that binds names.

    Args:
        names: all that it binds.
        text: the statement, without indentation.
        place: (number of the unit, first line).
        last_line: of the statement in its unit.
        future: the unit has `from __future__ import annotations`.
        module: for `import a.b.c`, that dotted name; else empty.
    """

    names: tuple[str, ...]
    kind: Kind
    text: str
    node: ast.stmt
    unit: Unit
    place: tuple[int, int]
    last_line: int
    future: bool
    module: str = ""

    @cached_property
    def uses(self) -> frozenset[str]:
        """Global names that it can't do without."""
        tree = syntax_tree(self.text)
        if self.future:
            tree = ast.fix_missing_locations(_Unannotated().visit(tree))
        return _global_names(ast.unparse(tree))

    @cached_property
    def mentions(self) -> frozenset[str]:
        """Global names in annotations that are never evaluated."""
        return _global_names(self.text) - self.uses if self.future else frozenset()

    @cached_property
    def eager(self) -> frozenset[str]:
        """Global names that are looked up at once, when the statement runs."""
        tree = syntax_tree(self.text)
        if self.future:
            tree = _Unannotated().visit(tree)
        return _global_names(ast.unparse(ast.fix_missing_locations(_Gutted().visit(tree))))

    @cached_property
    def of_one_process(self) -> str:
        """Something of this process, such as `os.environ`, that is read at once; empty for nothing."""
        tree = _Gutted().visit(syntax_tree(self.text))
        found = sorted(_OF_ONE_PROCESS & _prefixes(_dotted_names(tree)))
        return found[0] if found else ""

    @cached_property
    def imports_of_one_process(self) -> bool:
        """True if it imports such a thing by its name, as `from os import environ` does."""
        if not isinstance(self.node, ast.ImportFrom):
            return False
        return any(f"{self.node.module}.{alias.name}" in _OF_ONE_PROCESS for alias in self.node.names)

    @cached_property
    def certain(self) -> frozenset[str]:
        """Those of its names that it binds whatever way it goes."""
        return frozenset(self.names) if self.kind != "block" else frozenset(_surely_bound([self.node]))

    @cached_property
    def assigns(self) -> frozenset[str]:
        """Global names that its functions assign themselves."""
        return frozenset(_assigned_globals(symtable.symtable(self.text, "<plan>", "exec"), top=True))

    @cached_property
    def dotted(self) -> frozenset[str]:
        """Every dotted name in it, such as `torch.nn.functional`."""
        return frozenset(_dotted_names(syntax_tree(self.text)))


@dataclass
class Module:
    """All bindings of a file or notebook.

    Args:
        bindings: in the order in which they ran.
        changed: name -> (unit label, line) of a statement that changes what the name stands for.
        patched: the same, where another object is put into something that is imported.
        guarded: name -> (unit label, line) of a definition under `if __name__ == "__main__"` that did not run.
    """

    bindings: list[Binding] = field(default_factory=list)
    changed: dict[str, tuple[str, int]] = field(default_factory=dict)
    patched: dict[str, tuple[str, int]] = field(default_factory=dict)
    guarded: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(
        self, unit: Unit, body: Iterable[ast.stmt], number: int, *, future: bool, main: bool = False
    ) -> None:
        """Add the bindings of some statements of a unit.

        Args:
            main: the unit ran as a program, with what stands under `if __name__ == "__main__"`.
        """
        for node in body:
            if is_main_guard(node):
                ran, skipped = _guarded(node, main)
                for statement in skipped:
                    for name in bound_names(statement):
                        self.guarded.setdefault(name, (unit.label, statement.lineno))
                self.add(unit, ran, number, future=future, main=main)
                continue
            self.bindings.extend(_bindings_of(node, unit, number, future))
            for name in _changed_by(node):
                self.changed.setdefault(name, (unit.label, node.lineno))

    def of(self, name: str) -> list[Binding]:
        """Return the bindings of a name, the latest last."""
        return [binding for binding in self.bindings if name in binding.names]


def has_future_annotations(tree: ast.Module) -> bool:
    """Tell whether a unit says `from __future__ import annotations`."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in tree.body
    )


def bound_names(node: ast.AST) -> set[str]:
    """Return the names that a statement binds in its own scope."""
    found: set[str] = set()
    for child in _own_scope(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(child.name)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            found.update(alias.asname or alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and child.name:
            found.add(child.name)
    return found


def _own_scope(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    comprehension = isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp))
    for child in ast.iter_child_nodes(node):
        if not (comprehension and isinstance(child, ast.comprehension)):
            yield from _own_scope(child)


def _bindings_of(node: ast.stmt, unit: Unit, number: int, future: bool) -> Iterator[Binding]:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno or node.lineno

    def binding(names: Iterable[str], kind: Kind, text: str, module: str = "") -> Binding:
        return Binding(tuple(names), kind, text, node, unit, (number, first), last, future, module)

    if isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            dotted = alias.name if alias.asname is None and "." in alias.name else ""
            yield binding([name], "import", ast.unparse(ast.Import([alias])), dotted)
        return
    if isinstance(node, ast.ImportFrom):
        if node.module == "__future__":
            return
        for alias in node.names:
            text = ast.unparse(ast.ImportFrom(node.module, [alias], node.level))
            kind: Kind = "relative" if node.level else "star" if alias.name == "*" else "import"
            yield binding([] if alias.name == "*" else [alias.asname or alias.name], kind, text)
        return
    names = sorted(bound_names(node))
    if names:
        yield binding(names, _kind(node), _text(node, unit, first, last))


def _kind(node: ast.stmt) -> Kind:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "function"
    if isinstance(node, ast.ClassDef):
        return "class"
    if isinstance(node, ast.Assign):
        plain = all(_is_name_target(target) for target in node.targets)
        return "constant" if plain and is_constant(node.value) else "other"
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return "constant" if isinstance(node.target, ast.Name) and is_constant(node.value) else "other"
    if isinstance(node, (ast.If, ast.Try)) and _is_plain_block(node):
        return "block"
    return "other"


def _is_name_target(target: ast.expr) -> bool:
    if isinstance(target, (ast.Tuple, ast.List)):
        return all(_is_name_target(item) for item in target.elts)
    return isinstance(target, ast.Name)


def _is_plain_block(node: ast.stmt) -> bool:
    """Tell whether an `if` or `try` only chooses between imports and definitions."""
    if isinstance(node, ast.If):
        # what a call answers, such as whether there is a GPU, may be something else at a node
        return is_constant(node.test) and all(_is_plain_block(c) for c in (*node.body, *node.orelse))
    if isinstance(node, ast.Try):
        handlers = [child for handler in node.handlers for child in handler.body]
        parts = (*node.body, *handlers, *node.orelse, *node.finalbody)
        return all(_is_plain_block(child) for child in parts)
    if isinstance(node, (ast.Import, ast.Pass, ast.Raise)):
        return True
    if isinstance(node, ast.ImportFrom):
        return not node.level and all(alias.name != "*" for alias in node.names)
    return _kind(node) in ("function", "class", "constant")


def is_constant(node: ast.expr) -> bool:
    """Tell whether an expression is a literal, or made of literals, other names and operators."""
    if isinstance(node, (ast.Constant, ast.Name, ast.Lambda)):
        return True
    if isinstance(node, ast.Attribute):
        plain = isinstance(node.value, (ast.Name, ast.Attribute)) and is_constant(node.value)
        return plain and ast.unparse(node) not in _OF_ONE_PROCESS
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _CONVERTERS
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        return known and all(is_constant(argument) for argument in arguments)
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return all(is_constant(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return all(is_constant(item) for item in (*node.keys, *node.values) if item is not None)
    if isinstance(node, ast.Subscript) and any(isinstance(n, ast.Attribute) for n in ast.walk(node)):
        return False  # an entry of something that lives elsewhere, such as os.environ
    allowed = (ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.JoinedStr)
    if isinstance(node, (*allowed, ast.Subscript, ast.FormattedValue, ast.Starred, ast.Slice)):
        return all(is_constant(c) for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))
    return False


def _text(node: ast.stmt, unit: Unit, first: int, last: int) -> str:
    """Return a statement as it was written, moved to the left margin."""
    lines = unit.lines[first - 1 : last]
    # ast counts columns in bytes of UTF-8
    head = lines[0].encode()[: node.col_offset if first == node.lineno else 0].decode()
    tail = lines[-1].encode()[node.end_col_offset or 0 :].decode().strip()
    if head.strip() or (tail and not tail.startswith("#")):
        return ast.unparse(node)  # shares its line with another statement
    text = textwrap.dedent("\n".join(line.rstrip() for line in lines))
    try:
        same = ast.dump(syntax_tree(text).body[0]) == ast.dump(node)
    except (SyntaxError, ValueError):
        same = False
    # moving a text with strings over several lines would change what is in them
    return text if same else ast.unparse(node)


def _changed_by(node: ast.stmt) -> Iterator[str]:
    """Yield names whose object a top-level statement changes in place."""
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = node.targets
        else:
            targets = [node.target]
        for target in targets:
            if isinstance(target, (ast.Attribute, ast.Subscript)):
                root: ast.expr = target
                while isinstance(root, (ast.Attribute, ast.Subscript)):
                    root = root.value
                if isinstance(root, ast.Name):
                    yield root.id
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            if called.attr in MUTATORS:
                yield called.value.id
        elif isinstance(called, ast.Name) and called.id == "setattr" and node.value.args:
            target = node.value.args[0]
            if isinstance(target, ast.Name):
                yield target.id


def is_main_guard(node: ast.stmt) -> bool:
    """Tell whether a statement asks for `__name__`, as `if __name__ == "__main__":` does."""
    if not isinstance(node, ast.If):
        return False
    return any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))


def _guarded(node: ast.stmt, main: bool) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Return the statements of a main guard that ran, and those that did not."""
    assert isinstance(node, ast.If)
    compares = node.test.ops if isinstance(node.test, ast.Compare) else []
    reverse = len(compares) == 1 and isinstance(compares[0], ast.NotEq)
    return (node.body, node.orelse) if main != reverse else (node.orelse, node.body)


def _surely_bound(body: Iterable[ast.stmt]) -> set[str]:
    """Return the names that statements bind, whichever way an `if` or a `try` goes."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.If):
            found |= _surely_bound(node.body) & _surely_bound(node.orelse)
        elif isinstance(node, ast.Try):
            ways = [_surely_bound([*node.body, *node.orelse])]
            for handler in node.handlers:
                ends = isinstance(handler.body[-1], ast.Raise)
                ways += [] if ends else [_surely_bound(handler.body)]
            found |= set.intersection(*ways) | _surely_bound(node.finalbody)
        else:
            found |= bound_names(node)
    return found


def _prefixes(dotted: Iterable[str]) -> set[str]:
    """Return the first two words of each dotted name, as `os.environ` of `os.environ.get`."""
    return {".".join(name.split(".")[:2]) for name in dotted}


def _global_names(text: str) -> frozenset[str]:
    return frozenset(_referenced(symtable.symtable(text, "<plan>", "exec"), top=True))


def _referenced(table: symtable.SymbolTable, *, top: bool) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (top or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _referenced(child, top=False)


def _assigned_globals(table: symtable.SymbolTable, *, top: bool) -> Iterator[str]:
    for symbol in table.get_symbols():
        if not top and symbol.is_declared_global() and symbol.is_assigned():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _assigned_globals(child, top=False)


def _dotted_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                yield ".".join([inner.id, *reversed(parts)])


class _Unannotated(ast.NodeTransformer):
    """Remove annotations."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        bare = copy.copy(node)
        bare.annotation = None
        return bare

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass() if not isinstance(node.target, ast.Name) else ast.Expr(ast.Constant(None))
        return ast.Assign([node.target], self.visit(node.value))


class _Gutted(ast.NodeTransformer):
    """Empty the bodies of functions, which do not run when they are defined."""

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.body = [ast.Pass()]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.body = ast.Constant(None)
        return self.generic_visit(node)
