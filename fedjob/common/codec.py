"""The codec of messages and files: plain data as msgpack, and frozen dataclasses as plain data.

Plain data is None, bool, int, float, str, bytes, lists and string-keyed maps of
these. Nothing else is encoded or decoded: no classes, no extension types, no code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import cattrs
import msgpack
from cattrs.v import format_exception

from fedjob.common.errors import DecodeError, EncodeError, FedjobError, MessageError

T = TypeVar("T")

MAX_ITEMS = 100_000
"""Largest number of entries of a list or map that a peer sends."""

MAX_ELEMENTS = 1_000_000
"""Largest number of values in one message or object of a peer, nested ones included: each takes up to 250 bytes here."""

MAX_DEPTH = 100
"""Deepest nesting of lists and maps that a peer sends."""


def pack(value: Any) -> bytes:
    """Return `value` as msgpack; equal values give equal bytes if their maps have equal order.

    Raises:
        EncodeError: something in it is not plain data.
    """
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=False, default=_refuse)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(
            f"expected plain data (None, bool, int, float, str, bytes, list, map): {error}"
        ) from error
    return packed


def packed_list(items: Sequence[bytes]) -> bytes:
    """Return the bytes that `pack` gives a list of these items, each of which is packed already."""
    header: bytes = msgpack.Packer().pack_array_header(len(items))
    return header + b"".join(items)


def packed_map(items: Mapping[str, bytes]) -> bytes:
    """Return the bytes that `pack` gives a map of these items, each of which is packed already."""
    header: bytes = msgpack.Packer().pack_map_header(len(items))
    return header + b"".join(pack(name) + packed for name, packed in items.items())


def _refuse(value: Any) -> Any:
    if (
        type(value).__module__ == "numpy"
        and getattr(value, "shape", None) == ()
        and value.dtype.kind in "biufU"
    ):
        return value.item()
    raise TypeError(f"found a {type(value).__module__}.{type(value).__qualname__}")


def unpack(data: bytes, *, limit_bytes: int | None = None, max_elements: int | None = None) -> Any:
    """Return the plain data in `data`.

    Args:
        limit_bytes: longer input is refused before anything is parsed.
        max_elements: of a peer's data: the most values, nested ones included. Input with more is refused
            while it is parsed, and so is one nested deeper than `MAX_DEPTH`. None does not limit what
            this side wrote itself.

    Raises:
        DecodeError: too long, too many values, truncated, trailing bytes, or not plain data.
    """
    if limit_bytes is not None and len(data) > limit_bytes:
        raise DecodeError(f"expected at most {limit_bytes} bytes, found {len(data)}")
    budget = None if max_elements is None else _Budget(max_elements)
    longest = min(MAX_ITEMS, len(data))  # an entry takes a byte or more: nothing is allocated for others
    try:
        found = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            ext_hook=_refuse_extension,
            list_hook=None if budget is None else budget.of_list,
            object_hook=None if budget is None else budget.of_map,
            max_array_len=longest,
            max_map_len=longest,
        )
    except Exception as error:  # msgpack raises many types of errors, which all mean the same here
        raise DecodeError(f"not valid msgpack: {type(error).__name__}: {error}") from error
    if budget is not None and _is_deeper(found, MAX_DEPTH):
        raise DecodeError(f"lists and maps are nested more than {MAX_DEPTH} deep")
    return found


class _Budget:
    """The number of values that may still be parsed."""

    def __init__(self, left: int) -> None:
        self._most = self._left = left

    def of_list(self, found: list[Any]) -> list[Any]:
        self._take(len(found) + 1)
        return found

    def of_map(self, found: dict[str, Any]) -> dict[str, Any]:
        self._take(2 * len(found) + 1)
        return found

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError(f"more than {self._most} values, nested ones included")


def _is_deeper(found: Any, depth: int) -> bool:
    """Return whether lists and maps are nested deeper; level by level, because recursion is what it protects."""
    level = [found] if isinstance(found, (list, dict)) else []
    for _ in range(depth):
        if not level:
            return False
        level = [
            item
            for held in level
            for item in (held.values() if isinstance(held, dict) else held)
            if isinstance(item, (list, dict))
        ]
    return bool(level)


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not plain data")


def in_order(value: Any) -> Any:
    """Return plain data with the keys of every map in order: equal maps have equal bytes, and their order carries nothing."""
    if isinstance(value, Mapping):
        return {
            name: in_order(value[name])
            for name in sorted(value, key=lambda name: (type(name).__name__, name))
        }
    return [in_order(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_plain(value: Any) -> Any:
    """Return a frozen dataclass (or a container of them) as plain data."""
    return _CONVERTER.unstructure(value)


def from_plain(kind: type[T], plain: Any) -> T:
    """Build `kind` from plain data, checking every field's presence and type.

    Fields that `kind` does not have are ignored, so that a newer peer may send
    more; fields without a default must be present.

    Raises:
        MessageError: a field is missing or of the wrong type; the message names all such fields.
    """
    try:
        return _CONVERTER.structure(plain, kind)
    except Exception as error:  # cattrs groups whatever the hooks and __post_init__ raise
        try:
            faults = cattrs.transform_error(error, path=kind.__name__, format_exception=_words)
            found = "; ".join(_with_field(fault, kind.__name__) for fault in faults)
        except Exception:
            found = str(error)
        raise MessageError(f"not {_article(kind.__name__)} {kind.__name__}: {found}") from error


def _with_field(fault: str, kind: str) -> str:
    """Return a fault of cattrs, `words @ Kind.field`, with the field first and the kind, which is named before, left out."""
    words, at, path = fault.rpartition(" @ ")
    if not at:
        return fault
    field = path.removeprefix(kind).removeprefix(".")
    return f"{field}: {words}" if field else words


def _article(word: str) -> str:
    return "an" if word[:1] in "AEIOU" else "a"


def _words(error: BaseException, kind: Any) -> str:
    """Return what is wrong with a field; an error of fedjob's own is quoted as it is."""
    return str(error) if isinstance(error, FedjobError) else format_exception(error, kind)


def _strict(kind: type[T]) -> Any:
    def hook(value: Any, _: Any) -> T:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
        return value

    return hook


def _float(value: Any, _: Any) -> float:
    if type(value) not in (float, int):
        raise TypeError(f"expected float, found {type(value).__name__}")
    return float(value)


def _mapping(value: Any, _: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"expected a map with string keys, found {type(value).__name__}")
    return dict(value)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    for kind in (int, str, bytes, bool):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook_func(lambda t: t == dict[str, Any], _mapping)
    return converter


_CONVERTER = _make_converter()
