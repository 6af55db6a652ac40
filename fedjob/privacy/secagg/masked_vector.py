"""Masked vectors in files: written at nodes chunk by chunk, added up at the researcher.

A file is in the safetensors format, with two tensors: `tensors`, the flat concatenation of all tensors in fixed point in the
order of their names (packed into bytes where a number has 9 to 15 bits), and `numbers`, the wide numbers as bytes. Memory is a chunk, however large a model is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import pack
from fedjob.common.errors import DecodeError, OtherContribution, SpecError
from fedjob.parameters.safetensors_header import Schema, Span, read_spans
from fedjob.privacy.secagg.fixed_point import (
    LIMBS,
    WIDE_BYTES,
    FixedPoint,
    numbers_of,
    rounding_of,
    wide_of,
    wide_total,
)
from fedjob.privacy.secagg.mask_stream import CHUNK, MaskStream
from fedjob.privacy.secagg.node_noise import OwnNoise
from fedjob.privacy.secagg.node_session import Mask

if TYPE_CHECKING:
    import numpy as np

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
WHOLES = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "?"}

FEW = 1000
"""So many numbers of float64 or fewer of one tensor are added without rounding to the fixed point of tensors."""

TENSORS, NUMBERS = "tensors", "numbers"

ADDING_THREADS = 2
"""Threads that add vectors up, each a stretch of them."""


def float_names(schema: Schema, *, noised: bool = False) -> list[str]:
    """Return the names of tensors that are added in fixed point, in their order in a vector.

    Args:
        noised: with noise on them all, so that none is added without rounding.
    """
    if noised:
        return sorted(name for name in schema if schema[name][0] not in WHOLES)
    return sorted(name for name in schema if not is_exact(*schema[name]))


def is_exact(dtype: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor's numbers are added as those beside the tensors are: whole ones, and a few of float64."""
    return dtype in WHOLES or (dtype == "F64" and math.prod(shape) <= FEW)


def length_of(schema: Schema, *, noised: bool = False) -> int:
    """Return how many numbers the tensors in fixed point have together, see `float_names`."""
    return sum(math.prod(schema[name][1]) for name in float_names(schema, noised=noised))


def vector_schema(length: int, num_numbers: int, fixed: FixedPoint) -> Schema:
    """Return the schema of a masked vector's file."""
    stored = ("U8", fixed.num_bytes(length)) if fixed.is_packed else (f"I{fixed.bits}", length)
    return {TENSORS: (stored[0], (stored[1],)), NUMBERS: ("U8", (num_numbers * WIDE_BYTES,))}


class TensorFile:
    """The tensors of a safetensors file as numpy arrays, a chunk at a time.

    Raises:
        DecodeError: the file is malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans: Mapping[str, Span] = read_spans(path)

    @property
    def schema(self) -> Schema:
        """Names, dtypes and shapes."""
        return {name: (span.dtype, span.shape) for name, span in self.spans.items()}

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """Yield a tensor of floating-point numbers as flat float64 arrays of `CHUNK` numbers, the last one shorter."""
        import numpy as np

        span = self.spans[name]
        flat = self._flat(span, FLOATS[span.dtype])
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK]
            if span.dtype == "BF16":  # the upper half of a float32
                part = (part.astype(np.uint32) << 16).view(np.float32)
            yield part.astype(np.float64)

    def exact(self) -> dict[str, list[Any]]:
        """Return name -> flat list, of the tensors that are added without rounding."""
        return {
            name: self._flat(span, {**WHOLES, **FLOATS}[span.dtype])
            .astype(float if span.dtype == "F64" else int)
            .tolist()
            for name, span in self.spans.items()
            if is_exact(span.dtype, span.shape)
        }

    def _flat(self, span: Span, dtype: str) -> np.ndarray:
        import numpy as np

        size = math.prod(span.shape)
        if not size:
            return np.empty(0, dtype=dtype)
        return np.memmap(self.path, dtype=dtype, mode="r", offset=span.start, shape=(size,))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskedVector:
    """All that goes into a vector, before it is rounded: `factor * (own - origin)`, and numbers beside that.

    Args:
        own: its tensors; None for none.
        origin: what tensors of the names in `relative` are measured from; all others are measured from zero.
        count_at: the place among the numbers where it is counted how many of the tensors' numbers were clipped.
        is_noised: noise is added before the masks, of vectors whose norm is bounded; nothing is counted then.
    """

    own: TensorFile | None
    origin: TensorFile | None
    relative: Collection[str]
    factor: float
    numbers: Sequence[Any]
    count_at: int
    is_noised: bool = False

    @property
    def names(self) -> list[str]:
        """The names of its tensors in fixed point, in their order."""
        return [] if self.own is None else float_names(self.own.schema, noised=self.is_noised)

    @property
    def length(self) -> int:
        """How many numbers those have."""
        return 0 if self.own is None else length_of(self.own.schema, noised=self.is_noised)

    @property
    def outside(self) -> bytes:
        """Everything of it but the numbers of the tensors."""
        shapes = [] if self.own is None else [[name, list(self.own.spans[name].shape)] for name in self.names]
        numbers = [repr(number) for number in self.numbers]
        about = [shapes, sorted(self.relative), repr(self.factor), numbers, self.count_at, self.is_noised]
        return pack(["fedjob secure sum: contribution 1", *about])


def contribution_digest(contribution: UnmaskedVector, fixed: FixedPoint) -> str:
    """Return the sha256 of all that goes into a vector.

    That is, of the whole numbers that are masked; where noise or rounding by chance depends on the digest, of the numbers
    before it.

    Raises:
        SpecError: it can't be added.
    """
    changes = _Changes(contribution)
    digest, clipped = changes.started(), 0
    is_before = contribution.is_noised or fixed.is_stochastic
    for chunk in changes.read():
        found, over = (chunk, 0) if is_before else fixed.quantised(chunk, contribution.factor)
        digest.update(found.data)
        clipped += over
    if not is_before:
        digest.update(_counted(clipped))
    return digest.hexdigest()


def write_vector(
    path: Path,
    contribution: UnmaskedVector,
    bound: str,
    fixed: FixedPoint,
    masks: Sequence[Mask],
    noise: OwnNoise | None = None,
) -> str:
    """Write a contribution with its noise and its masks to a new file, which is of no use where this raises.

    Args:
        bound: the `contribution_digest` that the masks were promised to; whatever is read is held against it. Without
            noise and rounding by chance it may be empty: then nobody may see the file before the masks are promised to what is returned.

    Returns:
        The `contribution_digest` of what was masked.

    Raises:
        OtherContribution: it is another one.
        SpecError: a number is not finite, or too large to be added.
        DecodeError: a file is malformed.
    """
    import numpy as np

    numbers, count_at, factor = contribution.numbers, contribution.count_at, contribution.factor
    length = contribution.length
    changes = _Changes(contribution, bound)
    if noise is not None:
        changes = replace(changes, noise=noise, factor=changes.factor_within(noise.clip, noise.clip_norm))
    layers = _Layers([MaskStream(mask.tensors, mask.sign) for mask in masks], noise, fixed)
    if fixed.is_stochastic and not bound:
        raise OtherContribution(
            "numbers are rounded by a chance that depends on the contribution, which is not bound yet"
        )
    chance = rounding_of(bound) if fixed.is_stochastic else None
    clipped, ready, digest = 0, np.empty(0, dtype=fixed.dtype), changes.started()
    is_before = noise is not None or fixed.is_stochastic
    with path.open("wb", buffering=0) as file:
        file.write(_header(length, len(numbers), fixed))
        for chunk in changes.chunks(digest if is_before else None):
            found, over = fixed.quantised(chunk, factor, chance)
            if not is_before:
                digest.update(found.data)
            clipped += over if noise is None else 0
            ready = found if not len(ready) else np.concatenate([ready, found])
            whole = len(ready) // CHUNK * CHUNK  # streams go on at multiples of a chunk only
            if whole:
                layers.write(file, ready[:whole])
                ready = ready[whole:]
        layers.write(file, ready)
        if not is_before:
            digest.update(_counted(clipped))
            changes.check(digest)
        words = wide_of([*numbers[:count_at], clipped, *numbers[count_at + 1 :]]).astype(np.int64).reshape(-1)
        for mask in masks:
            words += MaskStream(mask.numbers, mask.sign).words(len(words))
        file.write(wide_total(words.reshape(-1, LIMBS)).astype("<u4").tobytes())
    return digest.hexdigest()


def added_up(
    paths: Sequence[Path], masks: Sequence[Mask], fixed: FixedPoint, length: int
) -> tuple[np.ndarray, list[Fraction]]:
    """Return the sum of masked vectors without the masks that are left: whole numbers of `fixed.dtype`, and wide numbers.

    Args:
        length: how many numbers the tensors have.

    Raises:
        DecodeError: they are not vectors of one shape.
    """
    import numpy as np

    files = [TensorFile(path) for path in paths]
    schemas = {tuple(sorted(file.schema.items())) for file in files}
    if len(schemas) != 1 or set(files[0].schema) != {TENSORS, NUMBERS}:
        raise DecodeError("masked vectors of different shapes can't be added")
    (num_bytes,) = files[0].spans[NUMBERS].shape
    if files[0].schema != vector_schema(length, num_bytes // WIDE_BYTES, fixed):
        raise DecodeError(f"masked vectors of another length than {length} numbers can't be added")
    total = np.empty(length, dtype=fixed.dtype)
    flats = [file._flat(file.spans[TENSORS], "<u1" if fixed.is_packed else fixed.dtype) for file in files]

    def add(stretch: range) -> None:
        skipped = stretch.start * total.itemsize
        streams = [MaskStream(mask.tensors, mask.sign, skipped) for mask in masks]
        for start in stretch:
            place = slice(start, min(start + CHUNK, length))
            part = total[place]
            part[:] = _stored_part(flats[0], place, fixed)
            for flat in flats[1:]:
                np.add(part, _stored_part(flat, place, fixed), out=part)
            for stream in streams:
                stream.apply(part)

    on_threads(add, range(0, length, CHUNK))
    words = np.zeros(num_bytes // 4, dtype=np.int64)
    for file in files:
        words += file._flat(file.spans[NUMBERS], "<u1").view("<u4")
    for mask in masks:
        words += MaskStream(mask.numbers, mask.sign).words(len(words))
    return total, numbers_of(wide_total(words.reshape(-1, LIMBS)))


def on_threads(work: Callable[[Any], None], stretches: Sequence[Any]) -> None:
    """Do a work on `ADDING_THREADS` threads, each with a part of the stretches in their order: nobody else works meanwhile."""
    each = max(1, -(-len(stretches) // ADDING_THREADS))
    with ThreadPoolExecutor(ADDING_THREADS, thread_name_prefix="fedjob-sum") as pool:
        list(pool.map(work, [stretches[at : at + each] for at in range(0, len(stretches), each)]))


def _stored_part(flat: np.ndarray, part: slice, fixed: FixedPoint) -> np.ndarray:
    """Return a part of the whole numbers in a file; it begins at a multiple of 8."""
    if not fixed.is_packed:
        return flat[part]
    stored = flat[fixed.num_bytes(part.start) : fixed.num_bytes(part.stop)]
    return fixed.unpacked(stored, part.stop - part.start)


@dataclass(frozen=True, slots=True)
class _Changes:
    """What a node adds, before it is rounded.

    Args:
        bound: the digest that every pass over it is held against; empty for none, without noise.
        noise: what bounds it; None for no bound.
        factor: by which it is within the bound, see `factor_within`.
    """

    contribution: UnmaskedVector
    bound: str = ""
    noise: OwnNoise | None = None
    factor: float = 1.0

    def chunks(self, digest: hashlib._Hash | None) -> Iterator[np.ndarray]:
        """Yield it as float64 arrays of at most `CHUNK` numbers.

        Args:
            digest: what `started` returned, to add them to and to check at the end; None where the caller does both.
        """
        import numpy as np

        for chunk in self._whole(digest):
            if self.noise is None:
                yield chunk
            elif not self.factor:
                yield np.zeros(len(chunk))
            else:
                yield np.clip(chunk, -self.noise.clip, self.noise.clip) * self.factor

    def factor_within(self, clip: float, most: float) -> float:
        """Return the factor that keeps the Euclidean norm within a bound.

        It is 0 where a number is not finite: such a change counts as none, for to refuse it would tell that it was one.

        Args:
            clip: each number counts as one from -clip to clip.
        """
        import numpy as np

        squares: list[float] = []
        for chunk in self._whole(self.started()):
            if not np.isfinite(chunk).all():
                return 0.0
            within = np.clip(chunk, -clip, clip)
            squares.append(float(within @ within))
        norm = math.sqrt(math.fsum(squares))
        most *= 1 - 1e-9  # far more than the rounding of doubles
        return 1.0 if norm <= most else most / norm

    def started(self) -> hashlib._Hash:
        """Return the hash that the numbers of the tensors are to be added to."""
        return hashlib.sha256(self.contribution.outside)

    def _whole(self, digest: hashlib._Hash | None) -> Iterator[np.ndarray]:
        """Yield all that is read; raise at the end where it was not what the masks were promised to."""
        for chunk in self.read():
            if digest is not None:
                digest.update(chunk.data)
            yield chunk
        if digest is not None:
            self.check(digest)

    def check(self, digest: hashlib._Hash) -> None:
        """Raise OtherContribution where a contribution is not the one that the masks were promised to."""
        if digest.hexdigest() != self.bound and (self.bound or self.noise is not None):
            raise OtherContribution(
                "this node holds another contribution than the one that it has masked with the keys of this attempt: a "
                "new attempt is needed, with fresh ones"
            )

    def read(self) -> Iterator[np.ndarray]:
        """Yield the numbers of the tensors as they are in the files."""
        own, origin = self.contribution.own, self.contribution.origin
        if own is None:
            return
        for name in self.contribution.names:
            if name not in self.contribution.relative:
                yield from own.chunks(name)
                continue
            if origin is None or name not in origin.spans:
                raise SpecError(f"{name} is to be measured from the round's parameters, which do not have it")
            if origin.spans[name].shape != own.spans[name].shape:
                raise SpecError(f"{name} has another shape than the parameters that the round began with")
            for mine, before in zip(own.chunks(name), origin.chunks(name), strict=True):
                yield mine - before


@dataclass(slots=True)
class _Layers:
    """What lies over the whole numbers of a vector: noise, and masks."""

    streams: Sequence[MaskStream]
    noise: OwnNoise | None
    fixed: FixedPoint
    place: int = 0

    def write(self, file: Any, numbers: np.ndarray) -> None:
        """Write the next whole numbers, at most a chunk of them."""
        covered = numbers.copy()
        if self.noise is not None:
            self.noise.add_to(covered, self.place)
            self.place += 1
        for stream in self.streams:
            stream.apply(covered)
        file.write(self.fixed.packed(covered))


def _counted(clipped: int) -> bytes:
    return clipped.to_bytes(8, "big")


def _header(length: int, num_numbers: int, fixed: FixedPoint) -> bytes:
    size, wide = fixed.num_bytes(length), num_numbers * WIDE_BYTES
    dtype, shape = vector_schema(length, num_numbers, fixed)[TENSORS]
    header = {
        TENSORS: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]},
        NUMBERS: {"dtype": "U8", "shape": [wide], "data_offsets": [size, size + wide]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
