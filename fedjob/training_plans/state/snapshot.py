"""A snapshot of whatever a plan's code can keep something in, to which a plan that has worked is set back.

A warm worker, a new one, a resumed job and a simulation whose processes go from node to node have to compute the same
bytes. So a step begins with the plan as it was once its data were loaded, whatever earlier steps left in its
attributes, its model, its classes or its module. What is to last is in `ctx.state`.
"""

from __future__ import annotations

import io
import random
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import is_
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_NOT_ENTERED = ("fedjob", "torch", "numpy", "pandas", "polars", "sklearn", "logging", "threading", "weakref")
_CONSTANT = (type(None), bool, int, float, complex, str, bytes)
_CODE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_NO_VALUES = (*_CONSTANT, *_CODE, io.IOBase)
_MAX_ITEMS = 1000  # of one container
_MAX_ITEMS_IN_ALL = 20_000
_MAX_BYTES = 1 << 16
_DEPTH = 8

_Check = Callable[[], bool]
"""Sets something back; tells whether it is now as it was."""


class PlanSnapshot:
    """The values that a plan's attributes, model, classes and module have, with what is in them.

    Attributes, small containers and arrays, generators of randomness, and gradients are set back. That a large container or
    tensor was changed in place is noticed. Large arrays of numpy, and what data and libraries hold, are known by their
    identity alone.

    Args:
        plan: a training plan.
        apart: names of its attributes that are left as they are.
        data: tensors and arrays beside those that it has as attributes.
        given: tensors that each step is given anew, so that their values don't matter.
    """

    def __init__(
        self, plan: Any, *, apart: Collection[str], data: Iterable[Any] = (), given: Iterable[Any] = ()
    ) -> None:
        self._checks: list[_Check] = []
        self._empty: list[Any] = []  # containers: a module of torch has more than ten
        self._room = _MAX_ITEMS_IN_ALL
        self._given = {id(tensor) for tensor in given}
        # held, so that no other object gets its id meanwhile
        self._seen: dict[int, Any] = {id(plan): plan, id(plan.ctx): plan.ctx}
        self._add_attributes(vars(plan), _DEPTH, apart)
        self._add_attributes(vars(plan.ctx), _DEPTH, tuple(vars(plan.ctx)))  # that have no others
        for value in data:
            self._add(value, 1)
        for space in _spaces_of(plan):
            self._add_space(space)
        if (names := _globals_of(plan)) is not None:
            self._add_attributes(names, _DEPTH, [name for name in names if name.startswith(("__", "@"))])
        self._seen = {}

    def set_back(self) -> bool:
        """Set all of it back; tell whether that could be done, or else the plan has to be built anew."""
        if any(self._empty):
            for container in self._empty:
                container.clear()
        return all(check() for check in self._checks)

    def _add_attributes(self, values: dict[str, Any], depth: int, apart: Collection[str] = ()) -> None:
        kept = {name: value for name, value in values.items() if name not in apart}

        def check() -> bool:
            now = {name: value for name, value in values.items() if name not in apart} if apart else values
            if not _alike(now, kept):
                for name in now.keys() - kept.keys():
                    del values[name]
                values.update(kept)
            return True

        self._checks.append(check)
        for value in kept.values():
            self._add(value, depth)

    def _add_space(self, space: type) -> None:
        kept = _own_values(space)

        def check() -> bool:
            now = _own_values(space)
            if not _alike(now, kept):
                for name in now.keys() - kept.keys():
                    delattr(space, name)
                for name, value in kept.items():
                    if now.get(name, _GONE) is not value:
                        setattr(space, name, value)
            return True

        self._checks.append(check)
        for value in kept.values():
            self._add(value, _DEPTH)

    def _add(self, value: Any, depth: int) -> None:
        """Add what a value holds, if that can change."""
        if isinstance(value, _NO_VALUES) or id(value) in self._seen or not depth:
            return
        self._seen[id(value)] = value
        if hasattr(value, "_version") and hasattr(value, "data_ptr"):  # a tensor, without importing torch
            self._checks.append(_tensor_check(value, is_given=id(value) in self._given))
        elif isinstance(value, (tuple, *_CONTAINERS)) and type(value).__module__ in (
            "builtins",
            "collections",
        ):
            self._add_container(value, depth - 1)
        elif (check := _check_of(value)) is not None:
            self._checks.append(check)
        elif _is_entered(value):
            # a model may be as deep as it likes
            self._add_attributes(value.__dict__, _DEPTH if _is_module(value) else depth - 1)

    def _add_container(self, value: Any, depth: int) -> None:
        size = len(value)
        if not size and not isinstance(value, tuple):
            self._empty.append(value)
        elif size > min(self._room, _MAX_ITEMS):
            self._checks.append(lambda: len(value) == size)
        else:
            self._room -= size
            if not isinstance(value, tuple):
                self._checks.append(_container_check(value))
            for item in list(value.values() if isinstance(value, dict) else value):
                self._add(item, depth)


_GONE = object()
_CONTAINERS = (list, deque, dict, set)


def _alike(now: dict[str, Any], kept: dict[str, Any]) -> bool:
    """Tell whether names, their order and the objects that they name are the same."""
    return len(now) == len(kept) and all(map(is_, now.values(), kept.values())) and now.keys() == kept.keys()


def _own_values(space: type) -> dict[str, Any]:
    """Return what a class names, without Python's own names."""
    return {name: value for name, value in vars(space).items() if not name.startswith(("__", "@", "_abc_"))}


def _globals_of(plan: Any) -> dict[str, Any] | None:
    """Return the names of the module that is a plan's text; None for a plan whose class was not made of a text."""
    kind = type(plan)
    found = (getattr(item, "__globals__", None) for item in vars(kind).values())
    return next(
        (names for names in found if names is not None and names.get("__name__") == kind.__module__), None
    )


def _spaces_of(plan: Any) -> Iterator[type]:
    """Yield the classes that a plan's text defines."""
    name = type(plan).__module__
    known = {cls for cls in type(plan).__mro__ if cls.__module__ == name}
    known |= {
        item
        for item in (_globals_of(plan) or {}).values()
        if isinstance(item, type) and item.__module__ == name
    }
    yield from sorted(known, key=lambda cls: cls.__qualname__)


def _is_module(value: Any) -> bool:
    """Tell whether a value is a module of torch, without importing torch."""
    return "_parameters" in value.__dict__ and "_modules" in value.__dict__


def _is_entered(value: Any) -> bool:
    """Tell whether an object's attributes are the plan's to keep something in: not those of libraries, nor of data.

    Data may remember what they have read, which changes nothing of it.
    """
    if not isinstance(getattr(value, "__dict__", None), dict):
        return False
    if _is_module(value):
        return True
    kind = type(value)
    return kind.__module__.partition(".")[0] not in _NOT_ENTERED and not hasattr(kind, "__getitem__")


def _container_check(value: Any) -> _Check:
    """Return what sets a list, deque, set or dictionary back."""
    kept = value.copy()
    if isinstance(value, dict):

        def check() -> bool:
            if not _alike(value, kept):
                value.clear()
                value.update(kept)
            return True

        return check

    def check_items() -> bool:
        same = value == kept if isinstance(value, set) else _same_items(value, kept)
        if not same:
            value.clear()
            value.update(kept) if isinstance(value, set) else value.extend(kept)
        return True

    return check_items


def _same_items(value: Any, kept: Any) -> bool:
    return len(value) == len(kept) and all(map(is_, value, kept))


def _check_of(value: Any) -> _Check | None:
    """Return what sets a generator of randomness or a small array back; None for a value of another kind.

    What gives one item after the other can't be.
    """
    import numpy as np

    if isinstance(value, random.Random):
        return _state_check(value.getstate, value.setstate)
    if isinstance(value, np.random.RandomState):
        return _state_check(lambda: value.get_state(legacy=False), value.set_state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return _state_check(lambda: bits.state, lambda state: setattr(bits, "state", state))
    if hasattr(value, "get_state") and hasattr(value, "initial_seed"):  # torch's generator
        return _state_check(value.get_state, value.set_state)
    if isinstance(value, np.ndarray):
        return _array_check(value)
    if hasattr(type(value), "__next__"):
        return lambda: False
    return None


def _state_check(state: Callable[[], Any], set_state: Callable[[Any], Any]) -> _Check:
    kept = state()

    def check() -> bool:
        set_state(kept)
        return True

    return check


def _array_check(array: np.ndarray[Any, Any]) -> _Check | None:
    if array.nbytes > _MAX_BYTES or not array.flags.writeable or array.dtype.hasobject:
        return None
    kept = array.copy()
    content = kept.tobytes()

    def check() -> bool:
        if array.shape != kept.shape or array.dtype != kept.dtype:
            return False
        if array.tobytes() != content:
            array[...] = kept
        return True

    return check


def _tensor_check(tensor: Any, *, is_given: bool) -> _Check:
    """Return what sets a tensor back, and notices what can't be: another form, hooks, or other values of a large one."""
    form, learns, grad = _form(tensor), tensor.requires_grad, _grad(tensor)

    def check() -> bool:
        if _form(tensor) != form:
            return False
        if tensor.requires_grad != learns:
            if not tensor.is_leaf:
                return False
            tensor.requires_grad_(learns)
        if _grad(tensor) is not grad:
            tensor.grad = grad
        return True

    if is_given:
        return check
    values_check = _values_check(tensor)
    return lambda: check() and values_check()


def _values_check(tensor: Any) -> _Check:
    """Return what sets the values of a small tensor back, and notices that a large one was changed."""
    kept = tensor.detach().clone() if tensor.numel() * tensor.element_size() <= _MAX_BYTES else None
    version = _version(tensor)

    def check() -> bool:
        nonlocal version
        if kept is None:
            return _version(tensor) == version
        if _version(tensor) != version or not _same(tensor, kept):
            tensor.detach().copy_(kept)
            version = _version(tensor)
        return True

    return check


def _form(tensor: Any) -> tuple[Any, ...]:
    hooks = tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)
    return tensor.shape, tensor.dtype, *(len(of_kind) if of_kind else 0 for of_kind in hooks)


def _grad(tensor: Any) -> Any:
    return tensor.grad if tensor.is_leaf else None


def _same(tensor: Any, kept: Any) -> bool:
    """Tell whether two tensors of one form have the same values: what is written through `.data` counts no version."""
    return bool(((tensor.detach() == kept) | ((tensor != tensor) & (kept != kept))).all())


def _version(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # an inference tensor counts no versions
        return -1
