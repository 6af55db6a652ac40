"""The import of modules that stand in a plan's own text; everything else is imported as usual.

They are in no table of loaded modules, so two plans may each bring a `helpers.py`.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedjob.common.errors import MissingPackage
from fedjob.training_plans.source.sections import Section


class EmbeddedImports:
    """The `__import__` of one plan.

    Args:
        base: the name of the plan's module, which those of its sections begin with.
        sections: the modules of the text.
        codes: their compiled texts, by path.
        execute: runs a compiled text in a namespace.
    """

    def __init__(
        self,
        base: str,
        sections: Sequence[Section],
        codes: Mapping[str, types.CodeType],
        execute: Callable[[types.CodeType, dict[str, Any]], None],
    ) -> None:
        self._base, self._codes, self._execute = base, codes, execute
        self._sections = {part.module: part for part in sections}
        self.loaded: dict[str, types.ModuleType] = {}
        self.namespace: dict[str, Any] = {**vars(builtins), "__import__": self}

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        """Import a module as Python's own `__import__` does.

        Raises:
            ImportError: there is no such module.
        """
        wanted = self._absolute(name, globals or {}, level) if level else name
        top = wanted.partition(".")[0]
        if not self._knows(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        parts = wanted.split(".")
        for count in range(1, len(parts) + 1):
            found = self._load(".".join(parts[:count]))
        if not fromlist:
            return self._load(top)
        for item in fromlist:
            if not hasattr(found, item) and self._knows(f"{wanted}.{item}"):
                self._load(f"{wanted}.{item}")
        return found

    def _absolute(self, name: str, namespace: Mapping[str, Any], level: int) -> str:
        package = str(namespace.get("__package__") or "").removeprefix(self._base).removeprefix(".")
        parts = package.split(".") if package else []
        if level - 1 > len(parts):
            raise MissingPackage("a relative import leads beyond the plan's own modules")
        return ".".join([*parts[: len(parts) - (level - 1)], *([name] if name else [])])

    def _knows(self, module: str) -> bool:
        return module in self._sections or any(name.startswith(f"{module}.") for name in self._sections)

    def _load(self, name: str) -> types.ModuleType:
        if name in self.loaded:
            return self.loaded[name]
        if not self._knows(name):
            raise MissingPackage(f"no module named {name!r} travels with the plan")
        section = self._sections.get(name)
        module = types.ModuleType(f"{self._base}.{name}")
        is_package = section is None or section.path.endswith("/__init__.py")
        module.__package__ = module.__name__ if is_package else module.__name__.rpartition(".")[0]
        if is_package:
            module.__path__ = []
        module.__dict__["__builtins__"] = self.namespace
        self.loaded[name] = module
        if section is not None:
            self._run(module, self._codes[section.path], name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(self._load(parent), own, module)
        return module

    def _run(self, module: types.ModuleType, code: types.CodeType, name: str) -> None:
        # dataclasses look their module up while they are being made
        sys.modules[module.__name__] = module
        try:
            self._execute(code, module.__dict__)
        except BaseException:
            del self.loaded[name]
            raise
        finally:
            sys.modules.pop(module.__name__, None)
