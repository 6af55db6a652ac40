"""Named tensors and the files that hold them.

A set of parameters is a safetensors file: written in about the time of a file
copy, and opened by memory map in almost no time. Reading checks the header against
limits before any parser sees it, so a peer's file can't make this side
allocate or execute anything.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fedjob.common.errors import DecodeError, EncodeError, NoSpace
from fedjob.common.files import FULL, fsync_file, private
from fedjob.common.types import Ref
from fedjob.parameters.safetensors_header import (
    ITEM_BYTES,
    NAME,
    Schema,
    header_of,
    names_in_order,
    read_spans,
)

Params = dict[str, torch.Tensor]
"""Name -> tensor, on the CPU, contiguous, without gradient."""

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


def dtype_of(name: str) -> torch.dtype:
    """Return the dtype of a safetensors name such as "F32"."""
    return next(dtype for dtype, known in _DTYPES.items() if known == name)


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
        spans = read_spans(path)
        self.schema: Schema = MappingProxyType(
            {name: (span.dtype, span.shape) for name, span in spans.items()}
        )
        self._start = min((span.start for span in spans.values()), default=0)
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

    def as_one(self, most: int) -> torch.Tensor | None:
        """Return the elements of all tensors as one of one axis, in the file's order: a copy that is read at once.

        Args:
            most: elements; None is returned for more, for none, and where the tensors' dtypes differ.

        Raises:
            OSError: the file can't be read.
            DecodeError: it has become shorter.
        """
        dtypes = {dtype for dtype, _ in self.schema.values()}
        num_elements = sum(math.prod(shape) for _, shape in self.schema.values())
        if len(dtypes) != 1 or not 0 < num_elements <= most:
            return None
        found = torch.empty(num_elements, dtype=dtype_of(dtypes.pop()))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._start)
            if file.readinto(raw_bytes(found)) != found.nbytes:
                raise DecodeError(f"{self.path.name} has been cut short since it was opened")
        return found

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
        if not NAME.fullmatch(name):
            raise EncodeError(f"a parameter is named by 1 to 200 of A-Z a-z 0-9 _ . -; found {name[:80]!r}")
        if tensor.dtype not in _DTYPES:
            raise EncodeError(f"parameter {name} is of {tensor.dtype}; expected one of {sorted(ITEM_BYTES)}")
        ready[name] = tensor.detach().to("cpu").contiguous()
    # with no tensor and an empty map of metadata, safetensors would write a header that is no JSON
    metadata = metadata if ready else metadata or None
    schema = schema_of(ready)
    try:
        # by safetensors itself it would be truncated after it was made private, which ext4 takes for the replacement of a
        # file: it begins to write all of it to the disk, and removing it in the next round waits for that
        with open(path, "wb", opener=private) as file:
            file.write(header_of(schema, metadata))
            for name in names_in_order(schema):
                file.write(raw_bytes(ready[name]))
    except OSError as error:
        if error.errno in FULL:
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
    if isinstance(value, FileParams):  # it holds nothing else, and what nobody needs is not read
        return len(value) > 0
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
