"""Named tensors and the files that hold them.

A set of parameters is a safetensors file: written in about the time of a file
copy, and opened by memory map in almost no time. Reading checks the header against
limits before any parser sees it, so a peer's file can't make this side
allocate or execute anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedjob.common.errors import DecodeError, EncodeError, NoSpace
from fedjob.common.files import FULL, fsync_file, touch_private
from fedjob.common.types import Ref

Params = dict[str, torch.Tensor]
"""Name -> tensor, on the CPU, contiguous, without gradient."""

Schema = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> (safetensors dtype such as "F32", shape)."""

MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 100_000
MAX_AXES = 64
"""Of a tensor; torch has no more."""
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")
_ITEM_BYTES = {
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
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class FileParams(Mapping[str, torch.Tensor]):
    """Parameters in a safetensors file, each tensor mapped into memory when it is asked for.

    The file must stay as it is for as long as this object or one of its tensors
    lives; files in spools and breakpoints are never rewritten in place.

    Args:
        path: a safetensors file.
        ref: its name in the repository, if it is stored there already.

    Raises:
        DecodeError: the file is not a safetensors file within the limits.
    """

    def __init__(self, path: Path, ref: Ref | None = None) -> None:
        self.path = path
        self.ref = ref
        self.schema: Schema = read_schema(path)
        self._mapped: Params = {}
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise DecodeError(f"{path.name} is not a safetensors file: {error}") from error

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.schema:
            raise KeyError(name)
        if name not in self._mapped:
            self._mapped[name] = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return self._mapped[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.schema)

    def __len__(self) -> int:
        return len(self.schema)

    def __repr__(self) -> str:
        return f"FileParams({str(self.path)!r}, {len(self)} tensors)"


def save_params(
    params: Mapping[str, torch.Tensor],
    path: Path,
    metadata: dict[str, str] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write `params` to a new file at `path`, and fsync it if `durable`.

    Equal parameters give equal bytes: tensors lie in the order of their names
    within a size class (safetensors' own order), whatever the order in `params`.

    Raises:
        EncodeError: a name or a dtype is not allowed in a message.
        NoSpace: the disk is full; no partial file is left.
    """
    ready: Params = {}
    for name in sorted(params):
        tensor = params[name]
        if not _NAME.fullmatch(name):
            raise EncodeError(f"a parameter is named by 1 to 200 of A-Z a-z 0-9 _ . -; found {name[:80]!r}")
        if tensor.dtype not in _DTYPES:
            raise EncodeError(f"parameter {name} is of {tensor.dtype}; expected one of {sorted(_ITEM_BYTES)}")
        ready[name] = tensor.detach().to("cpu").contiguous()
    # two names may share storage (tied weights); safetensors wants each on its own
    seen: set[int] = set()
    for name, tensor in ready.items():
        pointer = tensor.untyped_storage().data_ptr()
        if tensor.numel() and pointer in seen:
            ready[name] = tensor.clone()
        seen.add(pointer)
    # with no tensor and an empty map of metadata, safetensors writes a header that is no JSON
    metadata = metadata if ready else metadata or None
    try:
        touch_private(path)
        save_file(ready, path, metadata=metadata)
    except (SafetensorError, OSError) as error:
        if any(f"os error {number}" in str(error) for number in FULL):  # safetensors says it in words alone
            path.unlink(missing_ok=True)
            raise NoSpace(f"no space left to write {path}: free some, then run again") from error
        raise
    if durable:
        fsync_file(path)


def hash_params(params: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of names, dtypes, shapes and values, in any order, as 64 hex digits."""
    digest = hashlib.sha256()
    for name, (dtype, shape) in schema_of(params).items():
        digest.update(f"{name}\0{dtype}\0{list(shape)}\0".encode())
        digest.update(raw_bytes(params[name]))
    return digest.hexdigest()


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's elements as the bytes in a file; without a copy, if it is contiguous."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def is_params(value: Any) -> bool:
    """Return whether a value is a map of named tensors."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    )


def schema_of(params: Mapping[str, torch.Tensor]) -> Schema:
    """Return names, dtypes and shapes of `params`, names sorted."""
    if isinstance(params, FileParams):
        return params.schema
    return MappingProxyType(
        {name: (_DTYPES[params[name].dtype], tuple(params[name].shape)) for name in sorted(params)}
    )


def num_bytes_of(schema: Schema) -> int:
    """Return how many bytes tensors of these dtypes and shapes have, the file's header not counted."""
    return sum(_ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in schema.values())


def read_schema(path: Path) -> Schema:
    """Read and check the header of a safetensors file; names come back sorted.

    Raises:
        DecodeError: the file is malformed; the message says how.
    """
    try:
        raw = _raw_header(path, MAX_HEADER_BYTES)
        header = json.loads(raw, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DecodeError(f"{path.name}: no readable safetensors header: {error}") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise DecodeError(f"{path.name}: expected a header map of at most {MAX_TENSORS} tensors")
    body_bytes = path.stat().st_size - 8 - len(raw)
    return MappingProxyType(dict(sorted(_check_header(header, body_bytes, path).items())))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a map of JSON; a name that stands there twice would mean another thing to another parser."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in a map")
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that this side wrote (no size limit)."""
    header = json.loads(_raw_header(path, limit_bytes=1 << 31))
    return dict(header.get("__metadata__") or {})


def _raw_header(path: Path, limit_bytes: int) -> bytes:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= limit_bytes:
            raise DecodeError(f"{path.name}: expected a header of 2 to {limit_bytes} bytes, found {length}")
        raw = file.read(length)
    if len(raw) != length:
        raise DecodeError(f"{path.name}: cut short inside its header")
    return raw


def _check_header(
    header: dict[str, Any], body_bytes: int, path: Path
) -> dict[str, tuple[str, tuple[int, ...]]]:
    schema: dict[str, tuple[str, tuple[int, ...]]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not _NAME.fullmatch(name):
            raise DecodeError(f"{path.name}: a tensor may not be named {name[:80]!r}")
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            item_bytes = _ITEM_BYTES[dtype]
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"{path.name}: tensor {name}: not a known dtype, shape and span") from error
        if len(shape) > MAX_AXES or not all(
            type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, end)
        ):
            raise DecodeError(
                f"{path.name}: tensor {name}: shape and span must be whole numbers of 0 or more, at most {MAX_AXES}"
            )
        size = item_bytes
        for length in shape:
            size *= length
        if end - start != size or end > body_bytes:
            raise DecodeError(f"{path.name}: tensor {name}: its span does not hold {dtype} {list(shape)}")
        schema[name] = (dtype, shape)
        spans.append((start, end))
    covered = 0
    for start, end in sorted(spans):
        if start != covered:
            raise DecodeError(f"{path.name}: tensors overlap or leave gaps")
        covered = end
    if covered != body_bytes:
        raise DecodeError(f"{path.name}: {body_bytes - covered} bytes belong to no tensor")
    return schema
