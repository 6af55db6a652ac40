"""The comparison of what a plan's text gives with what lives in its user's program.

A plan is taken as it was written. Whatever the program did since (a list that grew in
a loop, an attribute that was replaced, cells that ran in another order, a file that
was edited) would be left out without a word, and another model trained: so both are
walked through side by side, and the first difference is named.
"""

from __future__ import annotations
import __future__

import dis
import enum
import functools
import inspect
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np

from fedjob.training_plans.function import RemoteFunction

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type(Ellipsis))
_SEQUENCES = (list, tuple, deque)
_WRITTEN_BY_PYTHON = frozenset(
    {"__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__"}
    | {
        "__builtins__",
        "__cached__",
        "__classcell__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
    }
    | {"__doc__", "__file__", "__firstlineno__", "__hash__", "__loader__", "__match_args__", "__module__"}
    | {"__name__", "__new__", "__orig_bases__", "__package__", "__parameters__", "__path__", "__qualname__"}
    | {"__slots__", "__spec__", "__static_attributes__", "__subclasshook__", "__weakref__", "_abc_impl"}
    | {"_hashable_values_", "_member_names_", "_unhashable_values_", "_value2member_map_"}
)
_ABOUT_THE_CALL = frozenset({"CACHE", "COPY_FREE_VARS", "MAKE_CELL", "NOP", "PRECALL", "PUSH_NULL", "RESUME"})
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_LOADERS = frozenset({"_frozen_importlib", "_frozen_importlib_external", "importlib", "zipimport"})
_MISSING = object()
_MAX_STEPS = 100_000


@dataclass(frozen=True)
class Difference:
    """A thing that is not what the plan's text gives.

    Args:
        name: where it is, such as `SIZES` or `Plan.rate`.
        written: what the text gives, in a few words.
        live: what the program has.
    """

    name: str
    written: str
    live: str


class Comparison:
    """Walks through a live definition and the one that was built from the text, side by side.

    Args:
        module: the name of the module that the text was run in.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        # with the objects, so that no id is given out twice
        self._seen: dict[tuple[int, int], tuple[object, object]] = {}
        self._left = _MAX_STEPS

    def first(self, name: str, live: object, built: object) -> Difference | None:
        """Return the first difference, None where there is none."""
        return next(self._walk(name, live, built), None)

    def _walk(self, name: str, live: Any, built: Any) -> Iterator[Difference]:
        if live is built or (id(live), id(built)) in self._seen or self._left < 0:
            return
        self._seen[id(live), id(built)] = live, built
        self._left -= 1
        live, built = _unwrapped(live), _unwrapped(built)
        if isinstance(built, types.ModuleType) and isinstance(live, types.ModuleType):
            yield from self._modules(name, live, built)
        elif isinstance(built, type) and isinstance(live, type):
            yield from self._classes(name, live, built)
        elif isinstance(built, types.FunctionType) and isinstance(live, types.FunctionType):
            yield from self._functions(name, live, built)
        elif _kind(live) != _kind(built):
            yield _differ(name, live, built)
        elif isinstance(built, _PLAIN):
            if repr(live) != repr(built):
                yield _differ(name, live, built)
        elif isinstance(built, Mapping):
            yield from self._mappings(name, live, built)
        elif isinstance(built, _SEQUENCES):
            if len(live) != len(built):
                yield _differ(name, live, built)
            else:
                for index, (one, other) in enumerate(zip(live, built, strict=True)):
                    yield from self._walk(f"{name}[{index}]", one, other)
        elif isinstance(built, (set, frozenset)):
            if sorted(map(repr, live)) != sorted(map(repr, built)):
                yield _differ(name, live, built)
        elif _is_array(built):
            if not _same_array(live, built):
                yield _differ(name, live, built)
        else:
            yield from self._objects(name, live, built)

    def _mappings(self, name: str, live: Any, built: Any) -> Iterator[Difference]:
        # the order of a dictionary may be that of a network's layers
        if [repr(key) for key in live] != [repr(key) for key in built]:
            yield _differ(name, live, built)
            return
        for key, one, other in zip(built, live.values(), built.values(), strict=True):
            yield from self._walk(f"{name}[{key!r}]", one, other)

    def _objects(self, name: str, live: Any, built: Any) -> Iterator[Difference]:
        if isinstance(built, enum.Enum):
            yield from self._walk(f"{name}.value", live.value, built.value)
        elif isinstance(built, property):
            for part in ("fget", "fset", "fdel"):
                yield from self._walk(name, getattr(live, part), getattr(built, part))
        elif isinstance(built, functools.partial):
            for part in ("func", "args", "keywords"):
                yield from self._walk(f"{name}.{part}", getattr(live, part), getattr(built, part))
        elif isinstance(built, types.MethodType):
            yield from self._walk(name, live.__func__, built.__func__)
        elif isinstance(built, types.SimpleNamespace) or is_dataclass(built) or self._is_own(type(built)):
            yield from self._walk(name, getattr(live, "__dict__", {}), getattr(built, "__dict__", {}))

    def _modules(self, name: str, live: types.ModuleType, built: types.ModuleType) -> Iterator[Difference]:
        if not built.__name__.startswith(f"{self._module}."):
            yield _differ(name, live, built)
            return
        yield from self._attributes(name, vars(live), vars(built), more=False)

    def _is_own(self, cls: type) -> bool:
        return cls.__module__ == self._module or cls.__module__.startswith(f"{self._module}.")

    def _classes(self, name: str, live: type, built: type) -> Iterator[Difference]:
        if not self._is_own(built) or _plain_name(live) != _plain_name(built):
            yield _differ(name, live, built)
            return
        if len(live.__bases__) != len(built.__bases__):
            yield _differ(f"{name}.__bases__", live.__bases__, built.__bases__)
            return
        for one, other in zip(live.__bases__, built.__bases__, strict=True):
            yield from self._walk(other.__name__, one, other)
        yield from self._attributes(name, vars(live), vars(built), more=True)

    def _attributes(
        self, name: str, live: Mapping[str, Any], built: Mapping[str, Any], *, more: bool
    ) -> Iterator[Difference]:
        for attribute in [*built, *(live if more else ())]:
            if attribute in _WRITTEN_BY_PYTHON or attribute.startswith("__fedjob"):
                continue
            one, other = live.get(attribute, _MISSING), built.get(attribute, _MISSING)
            if one is _MISSING and attribute in live:
                continue
            yield from self._walk(f"{name}.{attribute}", one, other)

    def _functions(
        self, name: str, live: types.FunctionType, built: types.FunctionType
    ) -> Iterator[Difference]:
        one, other = live.__code__, built.__code__
        same = not is_compiled_by_python(live.__globals__) or _same_code(one, other)
        # autoreload makes methods outside of their class, with the name alone
        if _own_name(live) != _own_name(built) or not same:
            yield Difference(name, _code_words(built), _code_words(live))
            return
        yield from self._walk(f"the defaults of {name}", live.__defaults__, built.__defaults__)
        yield from self._walk(f"the defaults of {name}", live.__kwdefaults__, built.__kwdefaults__)
        for attribute, item in {**vars(built), **vars(live)}.items():
            if not isinstance(item, types.FunctionType) and not attribute.startswith("__"):
                found = vars(live).get(attribute, _MISSING), vars(built).get(attribute, _MISSING)
                yield from self._walk(f"{name}.{attribute}", *found)
        # a class in a function looks up the name of its module, which is another one at every node
        looked_up = _global_names(other) | _global_names(one) | set(one.co_freevars)
        for used in sorted(looked_up - _WRITTEN_BY_PYTHON):
            theirs = _looked_up(built, used)
            if theirs is _MISSING:
                continue  # of Python, or looked up where it never is
            yield from self._walk(used if used != "__class__" else name, _looked_up(live, used), theirs)


def _kind(item: object) -> object:
    """Return what two values of one class have in common, where the class was made twice too."""
    cls = type(item)
    return cls if cls.__module__ == "builtins" else _plain_name(cls)


def _plain_name(item: Any) -> str:
    """Return a qualified name without the functions around it: a plan stands at the top level."""
    return str(item.__qualname__).rpartition("<locals>.")[2]


def _own_name(function: types.FunctionType) -> str:
    return function.__qualname__.rpartition(".")[2]


def _unwrapped(item: object) -> object:
    if isinstance(item, RemoteFunction):
        return item.function
    if isinstance(item, (staticmethod, classmethod)):
        return item.__func__
    if isinstance(item, functools.cached_property):
        return item.func
    if not isinstance(item, (type, types.FunctionType)) and isinstance(
        inspect.getattr_static(item, "__wrapped__", None), types.FunctionType
    ):
        return item.__wrapped__  # type: ignore[attr-defined]
    return item


def is_compiled_by_python(namespace: Mapping[str, Any]) -> bool:
    """Tell whether Python compiled a module itself; test runners and type checkers rewrite what they import.

    Args:
        namespace: the module's names.
    """
    loader = namespace.get("__loader__")
    cls = loader if isinstance(loader, type) else type(loader)
    return loader is None or cls.__module__.partition(".")[0] in _LOADERS


def _same_code(live: types.CodeType, built: types.CodeType) -> bool:
    """Tell whether two functions were made of the same statements.

    A function that was written inside another one finds names in another way than one
    at the top level, so its instructions differ; its names and literals don't.
    """
    future = (live.co_flags ^ built.co_flags) & __future__.annotations.compiler_flag
    if future and any(isinstance(c, types.CodeType) for c in (*live.co_consts, *built.co_consts)):
        return True  # annotations within are evaluated in one of the two
    if live.co_varnames != built.co_varnames or live.co_argcount != built.co_argcount:
        return False
    if live.co_freevars == built.co_freevars and _steps(live) != _steps(built):
        return False
    # a method that autoreload adds is made outside of its class, without the cell that `super()` looks into
    names = [{*code.co_names, *code.co_freevars, *code.co_cellvars} - {"__class__"} for code in (live, built)]
    if names[0] != names[1]:
        return False
    inner = [[c for c in code.co_consts if isinstance(c, types.CodeType)] for code in (live, built)]
    literals = [
        [repr(c) for c in _literals_of(code) if not isinstance(c, types.CodeType)] for code in (live, built)
    ]
    # a qualified name is a literal in some versions of Python
    literals = [[text.replace("<locals>.", "") for text in some] for some in literals]
    if literals[0] != literals[1] or len(inner[0]) != len(inner[1]):
        return False
    return all(_same_code(one, other) for one, other in zip(*inner, strict=True))


def _literals_of(code: types.CodeType) -> tuple[Any, ...]:
    """Return a function's literals with its docstring, if any, without its margin, which autoreload moves."""
    first, *others = code.co_consts or (None,)
    return (inspect.cleandoc(first) if isinstance(first, str) else first, *others)


def _steps(code: types.CodeType) -> list[tuple[str, str]]:
    """Return the instructions of a function, without what depends on the statements around it."""
    found = []
    for step in dis.get_instructions(code):
        if step.opname not in _ABOUT_THE_CALL:
            name = "LOAD_ATTR" if step.opname == "LOAD_METHOD" else step.opname
            is_place = step.opcode in dis.hasjrel or step.opcode in dis.hasjabs
            plain = not is_place and not isinstance(step.argval, types.CodeType)
            found.append((name, repr(step.argval) if plain else ""))
    return found


def _global_names(code: types.CodeType) -> set[str]:
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname in _GLOBAL}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _global_names(constant)
    return found


def _looked_up(function: types.FunctionType, name: str) -> object:
    if name in function.__code__.co_freevars:
        cell = (function.__closure__ or ())[function.__code__.co_freevars.index(name)]
        try:
            found: object = cell.cell_contents
        except ValueError:
            found = _MISSING
        return found
    return function.__globals__.get(name, _MISSING)


def _is_array(item: object) -> bool:
    return isinstance(item, (np.ndarray, np.generic)) or (
        type(item).__module__.partition(".")[0] == "torch"
        and (hasattr(item, "detach") and hasattr(item, "numpy"))
    )


def _same_array(live: Any, built: Any) -> bool:
    one, other = (
        np.asarray(item.detach().cpu() if hasattr(item, "detach") else item) for item in (live, built)
    )
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _differ(name: str, live: object, built: object) -> Difference:
    return Difference(name, _words(built), _words(live))


def _words(item: object) -> str:
    if item is _MISSING:
        return "nothing"
    if isinstance(item, types.FunctionType):
        return _code_words(item)
    if isinstance(item, type):
        return f"the class {item.__qualname__}"
    text = " ".join(repr(item).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _code_words(function: types.FunctionType) -> str:
    return f"the function {function.__qualname__} (line {function.__code__.co_firstlineno})"
