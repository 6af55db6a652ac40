"""The header of a safetensors file, read and checked before any parser sees it.

Nothing here needs torch: a node's daemon reads what its workers wrote without it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedjob.common.errors import DecodeError

Schema = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> (safetensors dtype such as "F32", shape)."""

MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 100_000
MAX_AXES = 64
"""Of a tensor; torch has no more."""
_KEPT_BYTES = 64 << 10
"""The longest header that is not checked again where another file has the same."""

NAME = re.compile(r"(aux--[a-z][a-z0-9_]{0,30}\.)?[A-Za-z0-9_.\-]{1,200}")
"""Of a tensor: a parameter's name, which the prefix of a module may stand before, see `auxiliary`."""
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


def num_bytes_of(schema: Schema) -> int:
    """Return how many bytes tensors of these dtypes and shapes have, the file's header not counted."""
    return sum(ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in schema.values())


_ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""The dtypes in safetensors' own order: in a file the last one's tensors come first."""


def names_in_order(schema: Schema) -> list[str]:
    """Return the names of tensors in the order in which safetensors lays them into a file."""
    return sorted(schema, key=lambda name: (-_ORDER.index(schema[name][0]), name))


def header_of(schema: Schema, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return what a file of such tensors begins with, up to the first byte of the first tensor.

    Args:
        metadata: as `save_params` is given it; of several entries in any order, which safetensors does not keep.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    at = 0
    for name in names_in_order(schema):
        dtype, shape = schema[name]
        end = at + ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def file_size_of(schema: Schema, metadata: Mapping[str, str] | None = None) -> int:
    """Return the exact size, in bytes, of a file of such tensors, without making one.

    Args:
        metadata: as `save_params` is given it; of several entries in any order, which changes no size.
    """
    return len(header_of(schema, metadata)) + num_bytes_of(schema)


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor in a file: its dtype, its shape, and the place of its first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def read_schema(path: Path) -> Schema:
    """Read and check the header of a safetensors file; names come back sorted.

    Raises:
        DecodeError: the file is malformed; the message says how.
    """
    return MappingProxyType({name: (span.dtype, span.shape) for name, span in read_spans(path).items()})


def read_spans(path: Path) -> Mapping[str, Span]:
    """Read and check the header of a safetensors file; return where its tensors lie, names sorted.

    Raises:
        DecodeError: the file is malformed; the message says how.
    """
    try:
        raw, body_bytes = _raw_header(path, MAX_HEADER_BYTES)
        return _spans(raw, body_bytes) if len(raw) <= _KEPT_BYTES else _spans.__wrapped__(raw, body_bytes)
    except DecodeError as error:
        raise DecodeError(f"{path.name}: {error}") from error
    except OSError as error:
        raise DecodeError(f"{path.name}: no readable safetensors header: {error}") from error


@lru_cache(maxsize=16)
def _spans(raw: bytes, body_bytes: int) -> Mapping[str, Span]:
    """Check a header; in a round those of all nodes have the same bytes, and are checked once.

    Raises:
        DecodeError: how it is malformed.
    """
    try:
        header = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"no readable safetensors header: {error}") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise DecodeError(f"expected a header map of at most {MAX_TENSORS} tensors")
    body = 8 + len(raw)
    schema = _check_header(header, body_bytes)
    return MappingProxyType(
        {name: Span(*schema[name], body + header[name]["data_offsets"][0]) for name in sorted(schema)}
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a map of JSON; a name that stands there twice would mean another thing to another parser."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in a map")
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that this side wrote (no size limit)."""
    header = json.loads(_raw_header(path, limit_bytes=1 << 31)[0])
    return dict(header.get("__metadata__") or {})


def _raw_header(path: Path, limit_bytes: int) -> tuple[bytes, int]:
    """Return a file's header, and how many bytes come after it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= limit_bytes:
            raise DecodeError(f"expected a header of 2 to {limit_bytes} bytes, found {length}")
        raw = file.read(length)
        size = os.fstat(file.fileno()).st_size
    if len(raw) != length:
        raise DecodeError("cut short inside its header")
    return raw, size - 8 - length


def _check_header(header: dict[str, Any], body_bytes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    schema: dict[str, tuple[str, tuple[int, ...]]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not NAME.fullmatch(name):
            raise DecodeError(f"a tensor may not be named {name[:80]!r}")
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            item_bytes = ITEM_BYTES.get(dtype)
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"tensor {name}: not a dtype, shape and span") from error
        if item_bytes is None:
            raise DecodeError(f"tensor {name} is of {dtype!r:.40}; expected one of {', '.join(ITEM_BYTES)}")
        if len(shape) > MAX_AXES or not all(
            type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, end)
        ):
            raise DecodeError(
                f"tensor {name}: shape and span must be whole numbers of 0 or more, at most {MAX_AXES}"
            )
        size = item_bytes
        for length in shape:
            size *= length
        if end - start != size or end > body_bytes:
            raise DecodeError(f"tensor {name}: its span does not hold {dtype} {list(shape)}")
        schema[name] = (dtype, shape)
        spans.append((start, end))
    covered = 0
    for start, end in sorted(spans):
        if start != covered:
            raise DecodeError("tensors overlap or leave gaps")
        covered = end
    if covered != body_bytes:
        raise DecodeError(f"{body_bytes - covered} bytes belong to no tensor")
    return schema
