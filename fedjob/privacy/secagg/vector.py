"""A contribution as a vector that adds: tensors in fixed point, and all other numbers by name.

The tensors of all nodes have the same names and shapes, which the ask says. What other numbers there are, such as those of
metrics, differs from node to node: each says the names first, and all send the numbers of all names, 0 for those it lacks.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from fedjob.common.codec import MAX_ELEMENTS, from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, SpecError

MAX_NAMES = 20_000
MAX_NAME = 400
"""Characters of a name."""

MAX_UNPACKED_BYTES = 8 << 20
"""Of an outline."""

WEIGHT = "weight"
_SEPARATOR = "\0"
_KEY, _PLACE = ":", "#"
"""What a part of a name begins with that is the key of a map, or a place in a list."""


Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNumbers:
    """NamedNumbers by name, with what is needed to build the value again that they came from.

    Args:
        exact: the names of those that are whole numbers here.
        constants: name -> what is no number and has to be the same at all nodes.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()
    constants: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def outline(self) -> Outline:
        """What a node says of its numbers before it sends them."""
        return Outline(
            names=sorted(self.values),
            exact=sorted(self.exact),
            constants=dict(sorted(self.constants.items())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The names of numbers, sorted; which of them are whole; and constants.

    Args:
        relative: of a sum, the tensors that are measured from the parameters that the round began with.
    """

    names: list[str] = field(default_factory=list)
    exact: list[str] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    relative: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """The sha256 of the outline."""
        return hashlib.sha256(pack(to_plain(self))).hexdigest()

    @property
    def packed(self) -> bytes:
        """The outline as it travels: a message has room for the names of a deep network, which are much alike."""
        return zlib.compress(pack(to_plain(self)), 9)

    @classmethod
    def unpacked(cls, packed: Any) -> Outline:
        """Build it from the bytes of a peer.

        Raises:
            DecodeError: it is something else, or unpacks to more than `MAX_UNPACKED_BYTES`.
            SpecError: there are too many names, or one is too long.
        """
        found = from_plain(cls, unpack(_inflated(packed), max_elements=MAX_ELEMENTS))
        names = [*found.names, *found.constants, *found.relative]
        if len(names) > MAX_NAMES or any(len(name) > MAX_NAME for name in names):
            raise SpecError(
                f"a contribution has at most {MAX_NAMES} numbers, of names of {MAX_NAME} characters"
            )
        if any(
            not isinstance(c, Scalar) or (isinstance(c, str) and len(c) > MAX_NAME)
            for c in found.constants.values()
        ):
            raise SpecError("a constant of a contribution is plain and short")
        return found


def _inflated(packed: Any) -> bytes:
    if not isinstance(packed, bytes):
        raise DecodeError("an outline is bytes")
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(packed, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise DecodeError(f"not an outline: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise DecodeError(f"an outline is whole, and has at most {MAX_UNPACKED_BYTES} bytes")
    return found


def numbers_in(value: Any, *path: str | int) -> NamedNumbers:
    """Return the numbers in maps and lists, each named by the way to it.

    Raises:
        SpecError: something in it is no number, text or None, or there are too many.
    """
    values: dict[str, Any] = {}
    exact: set[str] = set()
    constants: dict[str, Scalar] = {}
    for way, leaf in _leaves(value, path):
        name = _name_of(way)
        if isinstance(leaf, bool) or not isinstance(leaf, (int, float, Fraction)):
            constants[name] = leaf
            continue
        values[name] = leaf
        if isinstance(leaf, int):
            exact.add(name)
    return NamedNumbers(values=values, exact=frozenset(exact), constants=constants)


def joined(parts: Iterable[NamedNumbers]) -> NamedNumbers:
    """Return the numbers of several parts, whose names differ."""
    values: dict[str, Any] = {}
    exact: set[str] = set()
    constants: dict[str, Scalar] = {}
    for part in parts:
        values |= part.values
        exact |= part.exact
        constants |= part.constants
    return NamedNumbers(values=values, exact=frozenset(exact), constants=constants)


def union(outlines: Sequence[Outline], relative: Sequence[str] = ()) -> Outline:
    """Return the outline of a sum.

    Args:
        relative: see `Outline`.

    Raises:
        SpecError: two nodes have another constant at the same place, or there are too many names.
    """
    constants: dict[str, Any] = {}
    for outline in outlines:
        for name, constant in outline.constants.items():
            if constants.setdefault(name, constant) != constant:
                shown = name.replace(_SEPARATOR, ".")
                raise SpecError(
                    f"nodes do not agree on {shown}: {constants[name]!r} and {constant!r} can't be added"
                )
    names = sorted({name for outline in outlines for name in outline.names})
    for name in names:
        if constants.pop(name, None) is not None:
            shown = name.replace(_SEPARATOR, ".")
            raise SpecError(f"{shown} is a number at one node and something else at another")
    if len(names) > MAX_NAMES:
        raise SpecError(f"a sum has at most {MAX_NAMES} numbers")
    rough = {name for one in outlines for name in one.names if name not in set(one.exact)}
    return Outline(
        names=names,
        exact=[name for name in names if name not in rough],
        constants=constants,
        relative=sorted(relative),
    )


def value_of(outline: Outline, totals: Sequence[Fraction], *path: str | int, exactly: bool = False) -> Any:
    """Return the maps and lists that an outline's numbers were in, with their sums, below a way.

    Args:
        totals: in the order of the outline's names.
        exactly: sums of floating-point numbers as `Fraction`; otherwise as the nearest double.
    """
    exact = set(outline.exact)
    found: dict[str, Any] = {
        name: int(total) if name in exact else total if exactly else float(total)
        for name, total in zip(outline.names, totals, strict=True)
    }
    found |= outline.constants
    start = _name_of(path)
    root: dict[str, Any] = {}
    for name, leaf in found.items():
        if name == start:
            return leaf
        if not name.startswith(start + _SEPARATOR if start else ""):
            continue
        place = root
        *ways, last = name[len(start) + 1 if start else 0 :].split(_SEPARATOR)
        for way in ways:
            place = place.setdefault(way, {})
        place[last] = leaf
    return _rebuilt(root)


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterable[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, Mapping):
        if not value:
            yield (*path, "{}"), None
        for key in value:
            if not isinstance(key, str) or _SEPARATOR in key:
                raise SpecError(f"a map that is added has text as keys, found {str(key)[:40]!r}")
            yield from _leaves(value[key], (*path, f"{_KEY}{key}"))
    elif isinstance(value, (list, tuple)):
        if not value:
            yield (*path, "[]"), None
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    elif value is None or isinstance(value, (bool, int, float, str, Fraction)):
        yield path, value
    else:
        raise SpecError(f"a {type(value).__name__} can't be added under secure aggregation")


def _name_of(path: Sequence[str | int]) -> str:
    return _SEPARATOR.join(f"{_PLACE}{one}" if isinstance(one, int) else one for one in path)


def _rebuilt(place: Any) -> Any:
    if not isinstance(place, dict):
        return place
    if set(place) == {"{}"}:
        return {}
    if set(place) == {"[]"}:
        return []
    filled = {key: item for key, item in place.items() if key not in ("{}", "[]")}
    if filled and all(key.startswith(_PLACE) for key in filled):
        size = max(int(key[1:]) for key in filled) + 1
        return [_rebuilt(filled.get(f"{_PLACE}{number}", 0)) for number in range(size)]
    return {key.removeprefix(_KEY): _rebuilt(item) for key, item in filled.items()}
