"""The modules that are a plan's text, with their names and classes, in which its code can keep something."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from fedjob.training_plans.source.embedded_imports import EmbeddedImports


def module_of(part: Any) -> str:
    """Return the name of the module that is a plan's text, from a function or an object of it."""
    return str(part.__module__ if isinstance(part, types.FunctionType) else type(part).__module__)


def _globals_of(parts: Sequence[Any]) -> dict[str, Any] | None:
    """Return the names of the module that is a plan's text; None for a plan that was not made of a text."""
    for part in parts:
        functions = (part,) if isinstance(part, types.FunctionType) else vars(type(part)).values()
        for function in functions:
            names: dict[str, Any] | None = getattr(function, "__globals__", None)
            if names is not None and names.get("__name__") == module_of(part):
                return names
    return None


def brought_to(names: dict[str, Any]) -> dict[str, Any] | None:
    """Return the modules that travel with a plan and are imported so far; None where none travels."""
    known = names.get("__builtins__")
    importer = known.get("__import__") if isinstance(known, dict) else None
    return cast("dict[str, Any]", importer.loaded) if isinstance(importer, EmbeddedImports) else None


def texts_of(parts: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return the names of the module that is a plan's text, and of those that travel with it, by the modules' names."""
    names = _globals_of(parts)
    if names is None:
        return {}
    brought = {module.__name__: vars(module) for module in (brought_to(names) or {}).values()}
    return {str(names["__name__"]): names, **brought}


def spaces_of(parts: Sequence[Any], texts: Mapping[str, dict[str, Any]]) -> Iterator[type]:
    """Yield the classes that a plan's text defines, and those of the modules that travel with it."""
    modules = {module_of(parts[0]), *texts}
    known = {cls for part in parts for cls in type(part).__mro__ if cls.__module__ in modules}
    named = (item for names in texts.values() for item in names.values())
    known |= {item for item in named if isinstance(item, type) and item.__module__ in modules}
    yield from sorted(known, key=lambda cls: cls.__qualname__)
