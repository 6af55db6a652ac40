"""The registry of components by name: the names that a spec or a message may have, and their classes.

A table maps a name to `module:class`, so that a look-up imports only that module.
Third parties add theirs as entry points of the group `fedjob.<kind>`; protocols as
those of `fedjob.plans`, the name under which users find them. Only names in the table
or among the entry points can be built: a name from a peer is looked up, never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fedjob.common.checks import shown
from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import SpecError

T = TypeVar("T")


@cache
def _points_of(group: str, search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group: to find them, every installed package is read, so it is done once."""
    return tuple(entry_points(group=group))


class Registry(Mapping[str, type[T]]):
    """The components of one kind: a read-only map from their names to their classes.

    `fedjob.plans.psi` is `fedjob.plans["psi"]`.

    Args:
        kind: singular, as in messages: `protocol`, `aggregator`.
        table: name -> `module:class`; each class is a frozen dataclass with a
            class attribute `name` that equals its key.
        group: group of third parties' entry points; None for `fedjob.<kind>`.
    """

    def __init__(self, kind: str, table: Mapping[str, str], *, group: str | None = None) -> None:
        self.kind = kind
        self.group = group or f"fedjob.{kind}"
        self._table = dict(table)

    def __getitem__(self, name: str) -> type[T]:
        if name not in self:
            raise KeyError(name)
        return self.find(name)

    def __contains__(self, name: object) -> bool:
        # without the import of the class, which a look-up would take
        return isinstance(name, str) and (name in self._table or name in self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __getattr__(self, name: str) -> type[T]:
        if name.startswith("_") or name not in self.names():
            raise AttributeError(f"there is no {self.__dict__.get('kind', 'component')} {shown(name)}")
        return self.find(name)

    def __repr__(self) -> str:
        return f"<{self.group}: {', '.join(self)}>"

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._table, *(point.name for point in self._points())})

    def _points(self) -> tuple[EntryPoint, ...]:
        return _points_of(self.group, tuple(sys.path))

    def find(self, name: str) -> type[T]:
        """Return the class of that name.

        Raises:
            SpecError: there is none; the message names the nearest.
        """
        if name in self._table:
            module, _, attribute = self._table[name].partition(":")
            found: type[T] = getattr(import_module(module), attribute)
            return found
        for point in self._points():
            if point.name == name:
                loaded: type[T] = point.load()
                return loaded
        near = get_close_matches(name, self.names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise SpecError(f"there is no {self.kind} {name[:80]!r}{hint} Known: {', '.join(self.names())}")

    def _classes(self) -> Iterator[str]:
        """Yield the names of the classes, of those of others by which they are installed."""
        for name in self.names():
            yield self._table.get(name, name).rpartition(":")[2]

    def build(self, name: str, config: Mapping[str, Any]) -> T:
        """Build a component from its plain-data configuration.

        Raises:
            SpecError: the name is unknown.
            MessageError: the configuration does not fit.
        """
        return from_plain(self.find(name), dict(config))

    def config_of(self, component: T) -> tuple[str, dict[str, Any]]:
        """Return the name and the plain-data configuration that build an equal component."""
        name = getattr(component, "name", None)
        if not isinstance(name, str) or not is_dataclass(component) or isinstance(component, type):
            given: Any = component
            words = (
                f"the class {given.__name__}: write {given.__name__}(...)"
                if isinstance(given, type)
                else shown(given)
            )
            raise SpecError(
                f"a {self.kind} is an instance of {', '.join(sorted(self._classes()))} or of a frozen dataclass of "
                f"your own with a `name`; found {words}"
            )
        return name, {f.name: to_plain(getattr(component, f.name)) for f in fields(component) if f.init}
