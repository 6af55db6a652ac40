"""The watch over what a private training must leave alone: values that would carry what one record says to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedjob.common.errors import NotPrivate

_OF_FEDJOB = ("_fedjob_ctx", "timing", "_optimizer", "_memory", "_known_sets", "_tests_withheld")
_OF_TORCH = ("_parameters", "_buffers", "_modules", "training")
_MAX_ITEMS = 1000
_MAX_BYTES = 1 << 16


def marks_of(values: Mapping[str, Any], apart: Iterable[str] = _OF_FEDJOB) -> dict[str, Any]:
    """Return a mark of each value by its name: the marks differ once a value was replaced or changed in place.

    Large arrays and objects of other classes are known by their identity alone.
    """
    left_out = set(apart)
    return {name: _mark(value) for name, value in values.items() if name not in left_out}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names whose marks differ, those that are new or gone included."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name, _GONE) != after.get(name, _GONE)
    )


class Watch:
    """A watch over a plan's attributes, its `ctx.state`, and the attributes of its model's own modules.

    Args:
        plan: a training plan.
        modules: name -> module of its model, of classes that the plan defines; empty for none.
    """

    def __init__(self, plan: Any, modules: Mapping[str, Any]) -> None:
        self._plan, self._modules = plan, dict(modules)
        self._before = self._marks()

    def check(self) -> None:
        """Refuse a step that changed anything.

        Raises:
            NotPrivate: it names what.
        """
        if names := changed(self._before, self._marks()):
            raise NotPrivate(
                f"a training step changes {names[0]}: under differential privacy nothing may go from one record to the "
                "next but the noisy parameters. Leave it out, or count in something that does not come from records"
            )

    def _marks(self) -> dict[str, Any]:
        found = {f"self.{name}": mark for name, mark in marks_of(vars(self._plan)).items()}
        found |= {
            f"self.ctx.state[{name!r}]": mark for name, mark in marks_of(self._plan.ctx.state, ()).items()
        }
        for place, module in self._modules.items():
            named = marks_of(vars(module), _OF_TORCH)
            found |= {f"model.{place}.{name}".replace("..", "."): mark for name, mark in named.items()}
        return found


_GONE = object()


def _mark(value: Any, depth: int = 4) -> Any:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return type(value).__name__, repr(value)
    if hasattr(value, "_version") and hasattr(value, "data_ptr"):  # a tensor, without importing torch
        return id(value), _version(value)
    if hasattr(value, "tobytes") and hasattr(value, "nbytes"):
        return id(value), value.tobytes() if value.nbytes <= _MAX_BYTES else None
    if not depth:
        return id(value)
    if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
        named = [(repr(key), _mark(item, depth - 1)) for key, item in list(value.items())[:_MAX_ITEMS]]
        return type(value).__name__, len(value), named
    if isinstance(value, (list, tuple)):
        return type(value).__name__, len(value), [_mark(item, depth - 1) for item in value[:_MAX_ITEMS]]
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, len(value), sorted(map(repr, list(value)[:_MAX_ITEMS]))
    return id(value)


def _version(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # an inference tensor counts no versions
        return -1
