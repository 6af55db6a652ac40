"""The watch over what a private training must leave alone: values that would carry what one record says to the next."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedjob.common.errors import NotPrivate

STEP, DATA = "a training step", "training_data"
"""Who is watched, for messages."""

_ADVICE = {
    STEP: "nothing may go from one record to the next but the noisy parameters. Leave it out, or count in something that "
    "does not come from records",
    DATA: "a step may use nothing of the data but the record it is given, so training_data keeps nothing and changes "
    "nothing but what it returns. Set it elsewhere from one of model_args or training_args",
}

_OF_FEDJOB = (
    "_fedjob_ctx",
    "timing",
    "_optimizer",
    "_memory",
    "_known_sets",
    "_tests_withheld",
    "_is_loading",
    "_as_built",
    "_as_loaded",
)
_BY_IDENTITY = ("_dataset", "_data", "_test")
_OF_CONTEXT = ("state", "send", "launcher", "rows", "private")
_OF_TORCH = ("_parameters", "_buffers", "_modules", "training", "_flat_weights", "_flat_weight_refs")
_NOT_ENTERED = ("torch", "pandas", "polars", "logging", "threading", "weakref")
_OF_LIBRARIES = ("fedjob", "torch", "builtins", "abc", "typing")
_MAX_ITEMS = 1000
_MAX_BYTES = 1 << 16
_DEPTH = 8


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names whose marks differ, those that are new or gone included."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name, _GONE) != after.get(name, _GONE)
    )


class Watch:
    """A watch over whatever a plan's code can keep something in: its object and class, its context, its module, its model.

    Large arrays are known by their identity alone, and so are objects of libraries that keep caches.

    Args:
        plan: a training plan.
        modules: name -> module of its model, all of them; empty for none. Their parameters and buffers are watched by
            others, see `HeldTensors`.
        who: is watched, `STEP` or `DATA`.
    """

    def __init__(self, plan: Any, modules: Mapping[str, Any], who: str = STEP) -> None:
        self._plan, self._modules, self._who = plan, dict(modules), who
        self._spaces = dict(_spaces_of(plan, self._modules.values()))
        self._before = self._marks()

    def check(self) -> None:
        """Refuse that anything was changed.

        Raises:
            NotPrivate: it names what.
        """
        if names := changed(self._before, self._marks()):
            raise NotPrivate(
                f"{self._who} changes {names[0]}: under differential privacy {_ADVICE[self._who]}"
            )

    def _marks(self) -> dict[str, Any]:
        plan = self._plan
        marker = _Marker([plan, plan.ctx, *(vars(plan).get(name) for name in _BY_IDENTITY), *self._held()])
        found = {f"self.{name}": mark for name, mark in marker.marks(vars(plan), _OF_FEDJOB)}
        found |= {f"self.ctx.{name}": mark for name, mark in marker.marks(vars(plan.ctx), _OF_CONTEXT)}
        found |= {f"self.ctx.state[{name!r}]": mark for name, mark in marker.marks(plan.ctx.state)}
        for place, module in self._modules.items():
            named = marker.marks(vars(module), _OF_TORCH)
            found |= {f"model.{place}.{name}".replace("..", "."): mark for name, mark in named}
        for place, space in self._spaces.items():
            own = {name: item for name, item in space.items() if not name.startswith(("__", "@", "_abc_"))}
            found |= {f"{place}.{name}": mark for name, mark in marker.marks(own)}
        return found

    def _held(self) -> Iterator[Any]:
        """Yield the modules of the model and their tensors."""
        for module in self._modules.values():
            yield module
            yield from vars(module)["_parameters"].values()
            yield from vars(module)["_buffers"].values()


def _spaces_of(plan: Any, modules: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the attributes of classes, and of the module, that a plan's text defines, by name."""
    for owner in (plan, *modules):
        for cls in type(owner).__mro__:
            if cls.__module__.partition(".")[0] not in _OF_LIBRARIES:
                yield f"{cls.__module__}.{cls.__qualname__}", vars(cls)
    space = getattr(type(plan).training_data, "__globals__", {})
    yield str(space.get("__name__", "")), space
    for name, item in list(space.items()):
        if isinstance(item, type) and item.__module__ == space.get("__name__"):
            yield f"{item.__module__}.{name}", vars(item)


_GONE = object()


class _Marker:
    """The maker of marks of values, which differ once a value was replaced or changed in place.

    Args:
        held: objects that are known by their identity alone.
    """

    def __init__(self, held: Iterable[Any]) -> None:
        self._held = {id(item) for item in held if item is not None}

    def marks(self, values: Mapping[str, Any], left_out: Iterable[str] = ()) -> Iterator[tuple[str, Any]]:
        """Yield names and marks of some values."""
        apart = set(left_out)
        for name, value in list(values.items()):
            if name not in apart:
                yield name, self._mark(value, _DEPTH, frozenset())

    def _mark(self, value: Any, depth: int, within: frozenset[int]) -> Any:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, bytearray)):
            return type(value).__name__, repr(value)
        if id(value) in self._held or id(value) in within or not depth:
            return id(value)
        if hasattr(value, "_version") and hasattr(value, "data_ptr"):  # a tensor, without importing torch
            return id(value), _version(value), _content(value)
        if hasattr(value, "tobytes") and hasattr(value, "nbytes"):
            return id(value), value.tobytes() if value.nbytes <= _MAX_BYTES else None
        deeper, inside = depth - 1, within | {id(value)}
        if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
            some = list(value.items())[:_MAX_ITEMS]
            return (
                type(value).__name__,
                len(value),
                [(repr(key), self._mark(item, deeper, inside)) for key, item in some],
            )
        if isinstance(value, (list, tuple, deque)):
            some = list(value)[:_MAX_ITEMS]
            return type(value).__name__, len(value), [self._mark(item, deeper, inside) for item in some]
        if isinstance(value, (set, frozenset)):
            return type(value).__name__, len(value), sorted(map(repr, list(value)[:_MAX_ITEMS]))
        return id(value), [(name, self._mark(item, deeper, inside)) for name, item in _attributes(value)]


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object that are its own; none of a class, a module, a function."""
    if isinstance(value, (type, types.ModuleType, types.FunctionType, types.MethodType)):
        return []
    own = getattr(value, "__dict__", None)
    if not isinstance(own, dict):
        return []
    of_library = type(value).__module__.partition(".")[0] in _NOT_ENTERED
    return [] if of_library and "_parameters" not in own else list(own.items())[:_MAX_ITEMS]


def _version(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # an inference tensor counts no versions
        return -1


def _content(tensor: Any) -> bytes | None:
    """Return the bytes of a small tensor: what is written through `.data` counts no version."""
    try:
        if tensor.nbytes > _MAX_BYTES:
            return None
        flat = tensor.detach().cpu().reshape(-1).view(sys.modules["torch"].uint8)
        return bytes(flat.numpy().tobytes())
    except Exception:  # sparse, quantised, or of a transformation that has ended
        return None
