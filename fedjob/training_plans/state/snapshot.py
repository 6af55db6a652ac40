"""A snapshot of whatever a plan's code can keep something in, to which a plan that has worked is set back.

A warm worker, a new one, a resumed job and a simulation whose processes go from node to node have to compute the same
bytes. So a step begins with the plan as it was once its data were loaded, whatever earlier steps left in its
attributes, its model, its classes or its module. What is to last is in `ctx.state`.
"""

from __future__ import annotations

import io
import random
import types
from collections import UserDict, UserList, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import is_
from typing import Any

from fedjob.training_plans.state.array_checks import (
    Check,
    Way,
    array_check,
    frame_bytes,
    frame_check,
    is_frame,
    is_tensor,
    tensor_check,
)
from fedjob.training_plans.state.plan_texts import brought_to, module_of, spaces_of, texts_of

_NOT_ENTERED = ("fedjob", "torch", "numpy", "pandas", "polars", "sklearn", "weakref")
_OF_THE_SYSTEM = ("asyncio", "concurrent", "logging", "multiprocessing", "queue", "socket", "threading")
# optimizers and schedulers that a plan keeps itself
_ENTERED = ("torch.optim", "torch.amp", "torch.cuda.amp")
_CONSTANT = (type(None), bool, int, float, complex, str, bytes)
_CODE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_NO_VALUES = (*_CONSTANT, *_CODE)
_MAX_ITEMS = 1000  # of one container
_MAX_ITEMS_IN_ALL = 20_000
_MAX_DRAWING = 100  # items among which generators are looked for
_MAX_BYTES = 1 << 16  # of one tensor or array
_MAX_BYTES_IN_ALL = 1 << 24  # of tensors and arrays that are copied
_MAX_SUMMED = 1 << 26  # bytes of those whose values are summed: some milliseconds a step
_DEPTH = 8


class PlanSnapshot:
    """The values that a plan's attributes, model, classes and module have, with what is in them.

    Attributes, small containers and arrays, generators of randomness, files that are read, optimizers and gradients are
    set back. That a large container, tensor, array or table was changed in place is noticed, by sums of its values; of those beyond
    64 MiB in all by samples. What data and libraries hold is known by its identity alone, but for their generators and the counts of data of the plan's own.

    Args:
        plan: of any kind.
        apart: names of its attributes that are left as they are.
        parts: objects and functions of the plan's text, of a plan that is not one itself.
        data: tensors, arrays and datasets beside those that it has as attributes.
        given: tensors that each step is given anew, so that their values don't matter.
    """

    def __init__(
        self,
        plan: Any,
        *,
        apart: Collection[str],
        parts: Sequence[Any] = (),
        data: Iterable[Any] = (),
        given: Iterable[Any] = (),
    ) -> None:
        self._checks: list[Check] = []
        self._empty: list[Any] = []  # containers: a module of torch has more than ten
        self._room, self._room_bytes, self._room_summed = _MAX_ITEMS_IN_ALL, _MAX_BYTES_IN_ALL, _MAX_SUMMED
        parts = parts or (plan,)
        self._texts = texts_of(parts)
        self._namespaces = {id(names) for names in self._texts.values()}
        self._modules = {module_of(parts[0]), *self._texts}
        self._given = {id(tensor) for tensor in given}
        # held, so that no other object gets its id meanwhile
        self._seen: dict[int, Any] = {id(plan): plan, id(plan.ctx): plan.ctx}
        self._add_attributes(vars(plan), _DEPTH, apart)
        self._add_attributes(vars(plan.ctx), _DEPTH, tuple(vars(plan.ctx)))  # that have no others
        for part in parts:
            if isinstance(part, types.FunctionType):
                self._add(part, _DEPTH)
            elif part is not plan:
                self._seen[id(part)] = part
                self._add_attributes(vars(part), _DEPTH)
        for value in data:
            self._add(value, 4)
        for space in spaces_of(parts, self._texts):
            self._add_space(space)
        for names in self._texts.values():
            self._add_attributes(names, _DEPTH, [name for name in names if name.startswith(("__", "@"))])
        if (brought := brought_to(next(iter(self._texts.values()), {}))) is not None:
            self._add_attributes(brought, _DEPTH)  # a module that a step imports is read anew in the next one
        self._seen = {}

    def set_back(self) -> bool:
        """Set all of it back; tell whether that could be done, or else the plan has to be built anew."""
        if any(self._empty):
            for container in self._empty:
                container.clear()
        try:
            return all(check() for check in self._checks)
        except Exception:  # objects of any kind may refuse what is tried with them
            return False

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
        if id(value) in self._seen or not depth:
            return
        if isinstance(value, types.FunctionType) and id(value.__globals__) in self._namespaces:
            self._seen[id(value)] = value
            self._add_function(value, depth - 1)
        elif not isinstance(value, _NO_VALUES):
            self._seen[id(value)] = value
            try:
                self._add_object(value, depth)
            except Exception:  # objects of any kind may refuse to be looked at: then the plan is built anew
                self._checks.append(lambda: False)

    def _add_object(self, value: Any, depth: int) -> None:
        if is_tensor(value):
            is_given = id(value) in self._given
            way = "sampled" if is_given else self._way_of(value.numel() * value.element_size())
            self._checks.append(tensor_check(value, is_given=is_given, way=way))
        elif isinstance(value, (tuple, *_CONTAINERS)):
            self._add_container(value, depth - 1)
        elif (check := self._check_of(value)) is not None:
            self._checks.append(check)
        elif _is_module(value):
            # a model may be as large and as deep as it likes
            for name in ("_parameters", "_buffers", "_modules"):
                if isinstance(found := value.__dict__.get(name), dict):
                    self._add_container(found, _DEPTH, limited=False)
            self._add_attributes(value.__dict__, _DEPTH)
        elif _is_entered(value):
            self._add_attributes(value.__dict__, depth - 1)
        elif isinstance(getattr(value, "__dict__", None), dict):
            self._add_draws(value, depth - 1)

    def _add_function(self, function: types.FunctionType, depth: int) -> None:
        """Add what a function of the plan's text keeps in its attributes, its defaults, and the names around it."""
        self._add_attributes(function.__dict__, depth)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._add(value, depth)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # it has no value yet
                continue
            self._checks.append(_cell_check(cell, content))
            self._add(content, depth)

    def _add_draws(self, data: Any, depth: int) -> None:
        """Add the generators of randomness that data or an object of a library has, and what data of the plan's own count."""
        is_own = type(data).__module__ in self._modules
        for name, value in list(vars(data).items()):
            if is_own and type(value) in (int, float):
                self._checks.append(_count_check(data, name, value))
            self._add_draws_of(value, depth)

    def _add_draws_of(self, value: Any, depth: int) -> None:
        if (
            not depth
            or id(value) in self._seen
            or isinstance(value, _NO_VALUES)
            or _is_of_the_system(type(value))
        ):
            return
        if (check := _generator_check(value)) is not None:
            self._seen[id(value)] = value
            self._checks.append(check)
        elif isinstance(value, (list, tuple, dict)):
            if len(value) <= _MAX_DRAWING:
                for item in list(value.values() if isinstance(value, dict) else value):
                    self._add_draws_of(item, depth - 1)
        elif isinstance(getattr(value, "__dict__", None), dict) and not is_tensor(value):
            self._seen[id(value)] = value
            self._add_draws(value, depth - 1)

    def _way_of(self, size: int) -> Way:
        """Return how so many bytes are to be known again, and count them."""
        if size <= min(_MAX_BYTES, self._room_bytes):
            self._room_bytes -= size
            return "copied"
        if size <= self._room_summed:
            self._room_summed -= size
            return "summed"
        return "sampled"

    def _add_container(self, value: Any, depth: int, *, limited: bool = True) -> None:
        size = len(value)
        self._seen[id(value)] = value
        is_plain = type(value).__module__ in ("builtins", "collections")
        if not size and not isinstance(value, tuple) and is_plain:
            self._empty.append(value)
        elif limited and size > min(self._room, _MAX_ITEMS):
            self._checks.append(lambda: len(value) == size)
        else:
            self._room -= size if limited else 0
            items = _items(value)
            if not isinstance(value, tuple):
                # what fills a container of another class is that class's own
                self._checks.append(
                    _container_check(value) if is_plain else lambda: _same_items(_items(value), items)
                )
            for item in items:
                self._add(item, depth)

    def _check_of(self, value: Any) -> Check | None:
        """Return what sets a generator, an array, a table or a file back; None for a value of another kind.

        What gives one item after the other can't be.
        """
        import numpy as np

        if (check := _generator_check(value)) is not None:
            return check
        if isinstance(value, np.ndarray):
            return array_check(value, self._way_of(value.nbytes))
        if is_frame(value):
            return frame_check(value, self._way_of(frame_bytes(value)))
        if isinstance(value, io.IOBase):
            return _file_check(value)
        if hasattr(type(value), "__next__"):
            return lambda: False
        return None


_GONE = object()
_CONTAINERS = (list, deque, dict, set)


def _alike(now: dict[str, Any], kept: dict[str, Any]) -> bool:
    """Tell whether names, their order and the objects that they name are the same."""
    return len(now) == len(kept) and all(map(is_, now.values(), kept.values())) and now.keys() == kept.keys()


def _own_values(space: type) -> dict[str, Any]:
    """Return what a class names, without Python's own names."""
    return {name: value for name, value in vars(space).items() if not name.startswith(("__", "@", "_abc_"))}


def _is_module(value: Any) -> bool:
    """Tell whether a value is a module of torch, without importing torch."""
    return (
        isinstance(names := getattr(value, "__dict__", None), dict)
        and "_parameters" in names
        and "_modules" in names
    )


def _is_entered(value: Any) -> bool:
    """Tell whether an object's attributes are the plan's to keep something in: not those of libraries, nor of data.

    Data may remember what they have read, which changes nothing of it.
    """
    kind = type(value)
    if not isinstance(getattr(value, "__dict__", None), dict) or _is_of_the_system(kind):
        return False
    if isinstance(value, (UserDict, UserList)) or kind.__module__.startswith(_ENTERED):
        return True
    return kind.__module__.partition(".")[0] not in _NOT_ENTERED and not hasattr(kind, "__getitem__")


def _is_of_the_system(kind: type) -> bool:
    """Tell whether objects of a class stand for what only the system can set back, such as threads."""
    return any(cls.__module__.partition(".")[0] in _OF_THE_SYSTEM for cls in kind.__mro__)


def _items(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _cell_check(cell: types.CellType, kept: Any) -> Check:
    def check() -> bool:
        if cell.cell_contents is not kept:
            cell.cell_contents = kept
        return True

    return check


def _count_check(data: Any, name: str, kept: Any) -> Check:
    """Return what notices that data have counted on; what else they keep may go with it, so that it can't be set back."""
    return lambda: getattr(data, name, None) == kept


def _file_check(file: io.IOBase) -> Check | None:
    """Return what sets a file that is read back to its place; what is written goes on."""
    if file.closed or not file.readable() or file.writable() or not file.seekable():
        return None
    place = file.tell()

    def check() -> bool:
        if not file.closed:
            file.seek(place)
        return not file.closed

    return check


def _container_check(value: Any) -> Check:
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


def _generator_check(value: Any) -> Check | None:
    """Return what sets a generator of randomness back; None for a value of another kind."""
    import numpy as np

    if isinstance(value, random.Random):
        return _state_check(value.getstate, value.setstate)
    if isinstance(value, np.random.RandomState):
        return _state_check(lambda: value.get_state(legacy=False), value.set_state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return _state_check(lambda: bits.state, lambda state: setattr(bits, "state", state))
    if hasattr(type(value), "get_state") and hasattr(type(value), "initial_seed"):  # torch's generator
        return _state_check(value.get_state, value.set_state)
    return None


def _state_check(state: Callable[[], Any], set_state: Callable[[Any], Any]) -> Check:
    kept = state()

    def check() -> bool:
        set_state(kept)
        return True

    return check
