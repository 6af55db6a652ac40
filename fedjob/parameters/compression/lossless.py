"""Bytes packed without loss: shuffled, so that the first bytes of all items stand together, then zstd.

Alted 2010, "Why Modern CPUs Are Starving and What Can Be Done about It", IEEE Computing in Science & Engineering 12(2),
describes the shuffle (Blosc). Collet, Kucherawy 2021, RFC 8878, is zstd.

Whether it pays is decided by a sample, since numbers of full precision cannot be packed and time would be lost. Packing
never makes more of the bytes, and unpacking never makes more than was announced.
"""

from __future__ import annotations

import numpy
import pyarrow

from fedjob.common.errors import DecodeError
from fedjob.parameters.compression.base import ItemSection

_LEVEL = 1
_SAMPLE_ITEMS = 16384
_NUM_SAMPLES = 4
_WORTH = 0.97
"""The share of the bytes that a sample may have left, for packing to pay."""

_LEAST_BYTES = 128


def packed(items: bytes | memoryview, section: ItemSection) -> bytes | None:
    """Return a section's bytes, shuffled and packed; None where that does not pay."""
    if section.num_bytes < _LEAST_BYTES:
        return None
    codec = pyarrow.Codec("zstd", compression_level=_LEVEL)
    rows = numpy.frombuffer(items, numpy.uint8).reshape(section.num_items, section.item_bytes)
    if section.num_items > 2 * _NUM_SAMPLES * _SAMPLE_ITEMS:
        steps = range(0, section.num_items - _SAMPLE_ITEMS, section.num_items // _NUM_SAMPLES)
        sample = numpy.concatenate([rows[at : at + _SAMPLE_ITEMS] for at in steps])
        if len(_compressed(codec, sample)) > _WORTH * sample.size:
            return None
    found = _compressed(codec, rows)
    return found if len(found) < _WORTH * section.num_bytes else None


def unpacked(data: bytes | memoryview, section: ItemSection) -> bytes:
    """Return the bytes of a section that `packed` made smaller.

    Raises:
        DecodeError: they are not as many as the section has; no more than these were ever made.
    """
    codec = pyarrow.Codec("zstd")
    try:
        shuffled = codec.decompress(bytes(data), decompressed_size=section.num_bytes, asbytes=True)
    except (OSError, OverflowError, MemoryError, pyarrow.ArrowException) as error:
        raise DecodeError(
            f"packed bytes are not the {section.num_bytes} that they have to be: {error}"
        ) from error
    columns = numpy.frombuffer(shuffled, numpy.uint8).reshape(section.item_bytes, section.num_items)
    return columns.T.tobytes()


def _compressed(codec: pyarrow.Codec, rows: numpy.ndarray) -> bytes:
    found: bytes = codec.compress(rows.T.tobytes(), asbytes=True)
    return found
