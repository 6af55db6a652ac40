"""Components by name: what a spec or a message may say, and what that builds.

A table maps a name to `module:class`, so that looking one up imports only it.
Third parties add theirs as entry points of the group `fedjob.<kind>`. Only names
in the table or among the entry points can be built: what a peer sends is looked
up, never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import SpecError

T = TypeVar("T")


class Registry(Generic[T]):
    """The components of one kind.

    Args:
        kind: singular, as in messages: `protocol`, `fold`.
        table: name -> `module:class`; each class is a frozen dataclass with a
            class attribute `name` that equals its key.
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._table, *(point.name for point in entry_points(group=f"fedjob.{self.kind}"))})

    def find(self, name: str) -> type[T]:
        """Return the class of that name.

        Raises:
            SpecError: there is none; the nearest is named.
        """
        if name in self._table:
            module, _, attribute = self._table[name].partition(":")
            found: type[T] = getattr(import_module(module), attribute)
            return found
        for point in entry_points(group=f"fedjob.{self.kind}", name=name):
            loaded: type[T] = point.load()
            return loaded
        near = get_close_matches(name, self.names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"there is no {self.kind} {name[:80]!r}{hint} Known: {', '.join(self.names())}")

    def build(self, name: str, config: Mapping[str, Any]) -> T:
        """Build a component from its plain-data configuration.

        Raises:
            SpecError: unknown name.
            MessageError: the configuration does not fit.
        """
        return from_plain(self.find(name), dict(config))

    def config_of(self, component: T) -> tuple[str, dict[str, Any]]:
        """Return the name and the plain-data configuration that build an equal component."""
        name = getattr(component, "name", None)
        if not isinstance(name, str) or not is_dataclass(component) or isinstance(component, type):
            raise SpecError(
                f"a {self.kind} is a frozen dataclass with a `name`, such as an instance of one of "
                f"{', '.join(self.names())}; found {component!r}"
            )
        return name, {f.name: to_plain(getattr(component, f.name)) for f in fields(component)}
