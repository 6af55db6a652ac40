"""The bytes of one tensor as it travels: exact, or in a compressor's lossy form; packed without loss where that pays.

    kind (0 exact, 1 lossy) | dtype | number of axes | length of each axis, 8 bytes | sections

A section is a byte (0 as it is, 1 packed), 8 bytes of length, and its bytes. What a section must have unpacked follows
from dtype, shape and compressor, so that nobody can announce more.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedjob.common.errors import DecodeError, EncodeError
from fedjob.parameters.compression.base import Compressor, ItemSection
from fedjob.parameters.compression.lossless import packed, unpacked
from fedjob.parameters.files import dtype_of, raw_bytes
from fedjob.parameters.safetensors_header import ITEM_BYTES, MAX_AXES

if TYPE_CHECKING:
    import torch

_EXACT, _LOSSY = 0, 1
_HEAD = struct.Struct("<BBB")
_LENGTH = struct.Struct("<BQ")
_DTYPES = tuple(sorted(ITEM_BYTES))
_LEAST_NUMBERS = 64
"""A tensor of fewer numbers travels exactly: little could be saved, and much of such ones hangs on them."""

Form = tuple[str, tuple[int, ...]]
"""dtype by its safetensors name, and shape."""


def is_lossy(compressor: Compressor, form: Form) -> bool:
    """Return whether a tensor of this form is made smaller by a compressor; integers and small tensors are not."""
    dtype, shape = form
    count = math.prod(shape)
    lossy_bytes = sum(section.num_bytes for section in compressor.sections(count)) if count else 0
    return (
        dtype in ("F64", "F32", "F16", "BF16")
        and count >= _LEAST_NUMBERS
        and lossy_bytes < count * ITEM_BYTES[dtype]
    )


def most_bytes(form: Form, compressor: Compressor | None) -> int:
    """Return the most bytes that a tensor of this form can take: those of one that can't be packed.

    Args:
        compressor: None for a tensor that travels as it is.
    """
    count = math.prod(form[1])
    if compressor is None or not is_lossy(compressor, form):
        sections: Sequence[ItemSection] = (_exact_section(form),)
    else:
        sections = compressor.sections(count)
    return len(_head(_EXACT, form)) + sum(_LENGTH.size + section.num_bytes for section in sections)


def exact_parcel(tensor: torch.Tensor, form: Form) -> bytes:
    """Return a tensor as it is."""
    section = _exact_section(form)
    return _head(_EXACT, form) + _framed(raw_bytes(tensor), section)


def lossy_parcel(numbers: torch.Tensor, form: Form, compressor: Compressor) -> tuple[bytes, torch.Tensor]:
    """Return numbers in a compressor's form, and the float32 numbers that their receiver finds there.

    Args:
        numbers: float32 or float64 in the tensor's shape.
        form: of the tensor that they are about.

    Raises:
        EncodeError: one is not finite, or too large.
    """
    flat = numbers.reshape(-1).contiguous()
    _check_finite(flat.float())
    sections = compressor.sections(flat.numel())
    items = [bytes(raw_bytes(part)) for part in compressor.encode(flat)]
    found = compressor.decode(items, flat.numel()).reshape(numbers.shape)
    _check_finite(found)
    framed = (_framed(memoryview(data), section) for data, section in zip(items, sections, strict=True))
    return b"".join([_head(_LOSSY, form), *framed]), found


def _check_finite(numbers: torch.Tensor) -> None:
    import torch

    low, high = torch.aminmax(numbers)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise EncodeError(
            "a number, or its change, is NaN, infinite or too large for 32 bits: the training diverges"
        )


def form_of(parcel: memoryview) -> Form:
    """Return the dtype and shape that a parcel announces.

    Raises:
        DecodeError: it has no readable beginning.
    """
    return _read_head(parcel)[1]


def opened(parcel: memoryview, compressor: Compressor) -> tuple[torch.Tensor, bool]:
    """Return what a parcel holds, and whether it is lossy: then these are float32 numbers, in the tensor's shape.

    Raises:
        DecodeError: it is malformed, or its bytes are not those of the form that it announces.
    """
    import torch

    kind, form, at = _read_head(parcel)
    dtype, shape = form
    count = math.prod(shape)
    if kind == _EXACT:
        (data,) = _sections(parcel, at, (_exact_section(form),))
        if not count:
            return torch.empty(shape, dtype=dtype_of(dtype)), False
        return torch.frombuffer(bytearray(data), dtype=dtype_of(dtype)).reshape(shape), False
    if not is_lossy(compressor, form):
        raise DecodeError(f"a tensor of {dtype} {list(shape)} travels as it is, not by {compressor.name}")
    sections = _sections(parcel, at, compressor.sections(count))
    return compressor.decode(sections, count).reshape(shape), True


def _exact_section(form: Form) -> ItemSection:
    dtype, shape = form
    return ItemSection(ITEM_BYTES[dtype], math.prod(shape))


def _head(kind: int, form: Form) -> bytes:
    dtype, shape = form
    return _HEAD.pack(kind, _DTYPES.index(dtype), len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)


def _read_head(parcel: memoryview) -> tuple[int, Form, int]:
    try:
        kind, dtype, num_axes = _HEAD.unpack_from(parcel)
        if kind not in (_EXACT, _LOSSY) or num_axes > MAX_AXES:
            raise DecodeError(f"a compressed tensor of kind {kind} with {num_axes} axes is none")
        shape = struct.unpack_from(f"<{num_axes}Q", parcel, _HEAD.size)
        return kind, (_DTYPES[dtype], shape), _HEAD.size + 8 * num_axes
    except (struct.error, IndexError) as error:
        raise DecodeError(f"a compressed tensor has no readable beginning: {error}") from error


def _framed(items: memoryview, section: ItemSection) -> bytes:
    if len(items) != section.num_bytes:
        raise EncodeError(f"a section of {section.num_bytes} bytes was given {len(items)}")
    small = packed(items, section)
    data = bytes(items) if small is None else small
    return _LENGTH.pack(small is not None, len(data)) + data


def _sections(parcel: memoryview, at: int, sections: Sequence[ItemSection]) -> list[bytes]:
    found = []
    for section in sections:
        try:
            is_packed, length = _LENGTH.unpack_from(parcel, at)
        except struct.error as error:
            raise DecodeError("a compressed tensor ends before its numbers") from error
        at += _LENGTH.size
        data = parcel[at : at + length]
        at += length
        if is_packed not in (0, 1) or len(data) != length or length > section.num_bytes:
            raise DecodeError(
                f"a compressed tensor has {length} bytes where at most {section.num_bytes} can be"
            )
        if not is_packed and length != section.num_bytes:
            raise DecodeError(f"a compressed tensor has {length} bytes where {section.num_bytes} have to be")
        found.append(unpacked(data, section) if is_packed else bytes(data))
    if at != len(parcel):
        raise DecodeError(f"{len(parcel) - at} bytes of a compressed tensor belong to no number")
    return found
