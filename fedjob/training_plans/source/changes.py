"""The changes that a file makes to its own names while it runs: syntax only, nothing is run.

A plan in a file is read and not run, so nobody can compare what its text gives with
what its names stand for. Hence every statement is looked for that may change something
after its definition: in loops and blocks, through another name, and in the functions
of the file that it calls.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fedjob.training_plans.source.bindings import MUTATORS, bound_names, is_main_guard

_COPIES = frozenset(
    {"bool", "dict", "float", "frozenset", "int", "len", "list", "range", "set", "str", "sum"}
)
_COPIES |= {"deepcopy", "sorted", "tuple"}
_CHANGE_AN_ARGUMENT = frozenset({"setattr", "delattr", "shuffle", "setitem", "delitem", "update_wrapper"})
_CHANGE_AN_ARGUMENT |= {"heapify", "heappush", "heappop", "heappushpop", "heapreplace", "insort"}
_CHANGE_AN_ARGUMENT |= {"insort_left", "insort_right", "iadd", "ior", "fill_diagonal", "copyto"}

EVERYTHING = ""
"""The name under which a change stands that may be of any name, such as that of `exec`."""


@dataclass(frozen=True)
class NameChange:
    """A place where an object is changed.

    Args:
        line: of its file.
        patch: another object is put in the place of an attribute, as `nn.Linear = MyLinear` does;
            else an item is added or removed, or a number or a word set.
    """

    line: int
    patch: bool = False


NameChanges = dict[str, NameChange]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class _Region:
    """Statements that run together.

    Args:
        nodes: all of their parts.
        own: names that are not those of the file.
        arguments: those of them that are given by a caller.
        assigned: names of the file that a function assigns.
    """

    nodes: list[ast.AST]
    own: frozenset[str] = frozenset()
    arguments: frozenset[str] = frozenset()
    assigned: NameChanges = field(default_factory=dict)


def changes_of(body: Iterable[ast.stmt], *, main: bool = False) -> NameChanges:
    """Return the names of a file whose objects it may change when it runs.

    Args:
        body: the statements of the file.
        main: it ran as a program, with what stands under `if __name__ == "__main__"`.

    Returns:
        name -> a change; under `EVERYTHING` one of nobody knows what.
    """
    ran = [node for node in body if main or not is_main_guard(node)]
    functions, classes = _definitions(ran)
    changers = _changers(functions)
    top = _Region(list(_executed(ran)))
    changed = _look(top, changers)
    waiting = list(_reached(top, functions, classes))
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for function in functions.get(name, classes.get(name, [])):
            region = _region_of(function)
            for other, change in _look(region, changers).items():
                if other not in region.own:
                    changed.setdefault(other, change)
            waiting += _reached(region, functions, classes)
    return changed


def _changers(functions: dict[str, list[Function]]) -> set[str]:
    """Return the names of the functions that change what they are given."""
    found: set[str] = set()
    regions = [(name, _region_of(function)) for name, some in functions.items() for function in some]
    while True:
        more = {name for name, region in regions if region.arguments & set(_look(region, found))} - found
        if not more:
            return found
        found |= more


def _definitions(body: Iterable[ast.stmt]) -> tuple[dict[str, list[Function]], dict[str, list[Function]]]:
    """Return the functions of a file by name, and the methods of its classes by the class's name."""
    functions: dict[str, list[Function]] = {}
    classes: dict[str, list[Function]] = {}
    for node in body:
        for part in ast.walk(node):
            if isinstance(part, ast.ClassDef):
                methods = [item for item in part.body if isinstance(item, Function)]
                classes.setdefault(part.name, []).extend(methods)
            elif isinstance(part, Function):
                functions.setdefault(part.name, []).append(part)
    return functions, classes


def _executed(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the parts of statements that run, and not the bodies of functions."""
    for node in body:
        yield node
        if isinstance(node, Function):
            yield from _executed([*node.decorator_list, *node.args.defaults])
            yield from _executed(default for default in node.args.kw_defaults if default is not None)
        else:
            yield from _executed(ast.iter_child_nodes(node))


def _region_of(function: Function) -> _Region:
    arguments = frozenset(a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg))
    nodes = [part for statement in function.body for part in ast.walk(statement)]
    bound = set().union(*(bound_names(statement) for statement in function.body))
    shared = {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
    assigned = {
        node.id: NameChange(node.lineno)
        for node in nodes
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in shared
    }
    return _Region(nodes, frozenset((arguments | bound) - shared), arguments, assigned)


def _reached(
    region: _Region, functions: dict[str, list[Function]], classes: dict[str, list[Function]]
) -> Iterator[str]:
    """Yield the functions that a region mentions and the classes that it calls; those may run."""
    for node in region.nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in functions:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in functions:
            yield node.attr  # a method, of whatever
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
            yield node.func.id


def _look(region: _Region, changers: set[str]) -> NameChanges:
    """Return the names that statements change, also where they go by another name there."""
    changed, aliases = dict(region.assigned), dict[str, set[str]]()
    settings = {id(target) for node in region.nodes for target in _settings(node)}
    for node in region.nodes:
        patch = id(node) not in settings and (_is_attribute_store(node) or _is_setattr(node))
        for name in _changed_at(node, changers):
            before = changed.get(name)
            if before is None or (patch and not before.patch):
                changed[name] = NameChange(getattr(node, "lineno", 0), patch)
        for name, others in _aliases_at(node):
            aliases.setdefault(name, set()).update(others)
    waiting = list(changed)
    while waiting:
        name = waiting.pop()
        for other in aliases.get(name, ()):
            if other not in changed:
                changed[other] = NameChange(changed[name].line)
                waiting.append(other)
    return changed


def _is_attribute_store(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)


def _is_setattr(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr" and len(node.args) == 3):
        return False
    return not isinstance(node.args[2], ast.Constant)


def _settings(node: ast.AST) -> list[ast.expr]:
    """Return the targets that are set to a number or a word, as `torch.backends.cudnn.benchmark = True` does."""
    return node.targets if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) else []


def _changed_at(node: ast.AST, changers: set[str]) -> Iterator[str]:
    if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
        yield from _rooted(node)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
        yield node.id
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        if any(
            isinstance(part, (ast.List, ast.ListComp, ast.Set, ast.Dict, ast.Call)) for part in ast.walk(node)
        ):
            yield node.target.id  # a list that grows, under whatever name
        elif isinstance(node.value, ast.Name):
            yield node.target.id
    elif isinstance(node, ast.Attribute) and node.attr in MUTATORS:
        yield from _rooted(node)
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "exec":
            yield EVERYTHING
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if name in _CHANGE_AN_ARGUMENT or name in changers:
            for item in given:
                for part in [item, *getattr(item, "elts", [])]:
                    yield from _rooted(part.value if isinstance(part, ast.Starred) else part)
        if name in ("map", "filter", "reduce") and given and getattr(given[0], "id", "") in changers:
            for item in given[1:]:
                yield from _rooted(item)


def _rooted(node: ast.AST) -> Iterator[str]:
    """Yield the name that a chain such as `CFG["sizes"].first` begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        of_the_file = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "globals"
        if of_the_file and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)
            return
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Call):
        called = getattr(node.func, "id", "")
        if called in ("globals", "vars", "locals", "__import__", "import_module"):
            yield EVERYTHING
        elif isinstance(node.func, ast.Attribute):
            yield from _rooted(node.func.value)  # such as CFG.get("sizes").append(8)


def _aliases_at(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Yield names that come to stand for (parts of) the objects of other names."""
    pairs: list[tuple[ast.AST | None, ast.AST]] = []
    if isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
        pairs = [(node.target, node.value)]
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        pairs = [(node.target, node.iter)]
    elif isinstance(node, ast.withitem):
        pairs = [(node.optional_vars, node.context_expr)]
    for target, value in pairs:
        others = set(_shared(value))
        for part in ast.walk(target) if target is not None and others else ():
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                yield part.id, others


def _shared(node: ast.AST) -> Iterator[str]:
    """Yield the names whose objects an expression may give, or hold."""
    if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
        yield from (name for name in _rooted(node) if name)
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.IfExp, ast.BoolOp, ast.NamedExpr)):
        for child in ast.iter_child_nodes(node):
            yield from _shared(child)
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") not in _COPIES:
        # zip(SIZES), CFG.values(), itertools.chain(SIZES) hand on what they are given
        for child in [*node.args, node.func]:
            if isinstance(child, (ast.Attribute, ast.Subscript, ast.Call, ast.Tuple, ast.List)):
                yield from _shared(child)
            elif isinstance(child, ast.Name) and child is not node.func:
                yield child.id
