"""Fixed-point numbers that add without error: tensors in 32 or 16 bits, all other numbers in 192.

Tensors. A number x counts as the whole number nearest to `scale * x`, with

    scale = floor((2^(bits - 1) - 1) / num_nodes) / clip

so that the sum of `num_nodes` numbers, each within -clip to clip, never leaves the bits. What lies beyond is clipped, and
counted. The error of a sum is at most `num_nodes * step / 2`, with `step = 1 / scale`.

All other numbers, such as counts, sums and metrics, count as the whole number nearest to `2^64 x`: whole numbers are exact, and
a sum is the nearest double of the exact sum of what was rounded to 2^-64. The sum of `MAX_NODES` numbers of less than 2^118 never
leaves 192 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import numpy as np

MAX_NODES = 1000

BITS = (16, 32)

LIMBS = 6
"""32-bit words of a wide number."""

WIDE_BYTES = 4 * LIMBS
_FRACTION_BITS = 64
_WIDE_LIMIT = 2.0**118


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The fixed point of tensors.

    Args:
        num_nodes: the most numbers that are added, 2 to `MAX_NODES`.
        clip: the largest size of a number.
        bits: of a sum, 16 or 32.
        steps: whole numbers in 1, where sums need room for noise; None for as many as fit.
    """

    num_nodes: int
    clip: float
    bits: int = 32
    steps: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.num_nodes <= MAX_NODES:
            raise SpecError(f"sums are of 2 to {MAX_NODES} nodes, found {self.num_nodes}")
        if not (math.isfinite(self.clip) and 1e-30 < self.clip < 1e30):
            raise SpecError(f"clip is a number above 0, found {self.clip}")
        if self.bits not in BITS:
            raise SpecError(f"bits is 16 or 32, found {self.bits}")
        if self.largest < 1:
            raise SpecError(f"the sum of {self.num_nodes} numbers has no room in {self.bits} bits")

    @property
    def largest(self) -> int:
        """The whole number that stands for `clip`."""
        if self.steps is not None:
            return math.ceil(self.steps * self.clip)
        return int(2 ** (self.bits - 1) - 1) // self.num_nodes

    @property
    def dtype(self) -> str:
        """The numpy dtype of the whole numbers, unsigned: sums go round."""
        return f"<u{self.bits // 8}"

    @property
    def scale(self) -> float:
        """Whole numbers in 1."""
        return self.largest / self.clip if self.steps is None else self.steps

    @property
    def error(self) -> float:
        """The most that the sum of all nodes is off where nothing was clipped."""
        return self.num_nodes / self.scale / 2

    def quantised(self, numbers: np.ndarray, factor: float) -> tuple[np.ndarray, int]:
        """Return `factor * numbers` as whole numbers of `dtype`, and how many numbers were larger than `clip`.

        Args:
            numbers: float64; what lies beyond -clip and clip counts as these.
            factor: 0 to 1, of numbers within the clip.

        Raises:
            SpecError: a number is NaN or infinite.
        """
        import numpy as np

        largest = float(max(-numbers.min(), numbers.max())) if len(numbers) else 0.0  # NaN where one is
        if not math.isfinite(largest):
            raise SpecError("a number is NaN or infinite: it can't be added")
        over = int(np.count_nonzero(np.abs(numbers) > self.clip)) if largest > self.clip else 0
        within = np.clip(numbers, -self.clip, self.clip) if over else numbers
        whole = within * (factor * self.scale)
        np.rint(whole, out=whole)
        if (
            largest * factor * self.scale > self.largest - 1
        ):  # a product may be rounded up past the largest by one
            np.clip(whole, -self.largest, self.largest, out=whole)
        words = whole.astype("<i4" if self.largest < 1 << 31 else "<i8")
        return (words.view(self.dtype) if self.bits == 8 * words.itemsize else words.astype(self.dtype)), over

    def restored(self, sums: np.ndarray) -> np.ndarray:
        """Return sums, of `dtype`, as float64."""
        import numpy as np

        return sums.view(f"<i{self.bits // 8}").astype(np.float64) / self.scale


def wide_of(numbers: Sequence[Any]) -> np.ndarray:
    """Return numbers as an array of uint32, shape (n, 6), the lowest word first.

    Args:
        numbers: whole, floating-point or `Fraction`.

    Raises:
        SpecError: one is NaN, infinite, or 2^118 or more.
    """
    import numpy as np

    found = bytearray()
    for number in numbers:
        exact = Fraction(number) if isinstance(number, (int, Fraction)) else _finite(number)
        if abs(exact) >= _WIDE_LIMIT:
            raise SpecError(f"{float(exact):g} is too large to be added: less than 2^118 is expected")
        whole = round(exact * (1 << _FRACTION_BITS))
        found += whole.to_bytes(WIDE_BYTES, "little", signed=True)
    return np.frombuffer(bytes(found), dtype="<u4").reshape(-1, LIMBS).copy()


def wide_total(added: np.ndarray) -> np.ndarray:
    """Return wide numbers, uint32, of sums of their words, int64 of the same shape: carries go up, what leaves is dropped."""
    import numpy as np

    words = added.copy()
    for place in range(LIMBS - 1):
        words[:, place + 1] += words[:, place] >> 32
    return (words & 0xFFFFFFFF).astype(np.uint32)


def numbers_of(wide: np.ndarray) -> list[Fraction]:
    """Return the exact numbers of an array of wide ones."""
    raw = wide.astype("<u4").tobytes()
    return [
        Fraction(int.from_bytes(raw[at : at + WIDE_BYTES], "little", signed=True), 1 << _FRACTION_BITS)
        for at in range(0, len(raw), WIDE_BYTES)
    ]


def _finite(number: Any) -> Fraction:
    value = float(number)
    if not math.isfinite(value):
        raise SpecError("a number is NaN or infinite: it can't be added")
    return Fraction(value)
