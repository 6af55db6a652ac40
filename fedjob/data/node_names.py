"""The names of the nodes of a simulation and what belongs to each, made when it is asked for: memory for none of them."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class NumberedNames(Sequence[str]):
    """The names `node-0001`, `node-0002` and so on, which are in order.

    Args:
        number: of the names.
    """

    number: int

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        places = range(self.number)[at]
        return self._name(places) if isinstance(places, int) else tuple(map(self._name, places))

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(self.number))

    def __contains__(self, name: object) -> bool:
        return place_of(name, self) is not None

    def place(self, name: str) -> int | None:
        """Return where a name stands, read from its number; None where it does not."""
        digits = name.removeprefix("node-")
        if len(digits) != self._width or not (digits.isascii() and digits.isdecimal()):
            return None
        place = int(digits) - 1
        return place if 0 <= place < self.number and self._name(place) == name else None

    @property
    def _width(self) -> int:
        return max(4, len(str(self.number)))

    def _name(self, place: int) -> str:
        return f"node-{place + 1:0{self._width}d}"


@dataclass(frozen=True, slots=True, eq=False)
class ByName(Mapping[str, V], Generic[V]):
    """A map whose values are made when they are asked for.

    Args:
        names: in order.
        value_at: returns the value of the name at a place.
    """

    names: Sequence[str]
    value_at: Callable[[int], V]

    def __getitem__(self, name: str) -> V:
        place = place_of(name, self.names)
        if place is None:
            raise KeyError(name)
        return self.value_at(place)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def place_of(name: object, names: Sequence[str]) -> int | None:
    """Return where a name stands among names in order; None where it does not."""
    if not isinstance(name, str):
        return None
    if isinstance(names, NumberedNames):
        return names.place(name)
    place = bisect_left(names, name)
    return place if place < len(names) and names[place] == name else None


def in_order(nodes: Mapping[str, object]) -> Sequence[str]:
    """Return the names of a map in order; those that are made when they are asked for, as they are."""
    names = getattr(nodes, "names", None)
    return tuple(sorted(nodes)) if names is None else names


def as_node_name(text: str) -> str:
    """Return a text in the letters of a node's name: `St. Mary` as `st-mary`, `Charité` as `charite`; empty where it has none."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub("[^a-z0-9_]+", "-", plain).strip("-_")
